"""The last look at a folder before it is published: nothing of the instructor's may be in it."""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from grader.course import Course
from grader.notebooks import read_notebook
from grader.release.leaks import PHRASES, hidden_lines, texts_in
from grader.release.overlap import LONG_RUN, SHORT_RUN, Answers

INSTRUCTORS = frozenset(
    {
        "solutions", "submitted", "attempts", "autograded", "feedback", "reports", "exchange",
        "tests",
    }
)  # fmt: skip
INSTRUCTORS_FILES = (
    "gradebook.db*", "policy.toml", "roster*.csv", "*.key", "*.pem", ".env*", "id_rsa*",
    "id_ed25519*", "mutant*.py", "reference.py", "hints.py",
)  # fmt: skip
# What teaches may say what a lab asks for, in a short run; a run this long is an answer.
TAUGHT_IN = ("chapters/*", "labkit/*", "grader/*", "scripts/*")
SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{20,}|hf_[A-Za-z0-9]{30,}"
    r"|sk-[A-Za-z0-9_-]{32,}|xox[abprs]-[\w-]{20,}|AKIA[0-9A-Z]{16})"
)
HOMES = re.compile(r"(?<![\w.-])/(?:home|Users)/[\w.-]+/")
SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|API_KEY|CREDENTIAL", re.IGNORECASE)
SHORTEST_SECRET = 12


def scan(course: Course, files: Mapping[str, Path], answers: Answers) -> list[str]:
    """One sentence for everything in a folder that learners must not get.

    Args:
        course: Whose solutions, hidden tests, key and place must not be found.
        files: The folder's files by their path in it.
        answers: The solutions of all labs.
    """
    private = list(_private_texts(course))
    hidden = {
        line for lab in course.labs() for line in hidden_lines(read_notebook(course.source(lab)))
    }
    found = []
    for name, path in sorted(files.items()):
        if why := _place(name):
            found.append(f"{name}: {why}")
        found += [f"{name}: holds {what}" for what in _private(path.read_bytes(), private)]
        length = LONG_RUN if any(fnmatch(name, pattern) for pattern in TAUGHT_IN) else SHORT_RUN
        for text in _texts(path):
            found += [f"{name}: {leak}" for leak in _leaks(text, hidden, answers, length)]
    return list(dict.fromkeys(found))


def _place(name: str) -> str:
    path = PurePosixPath(name)
    if part := next((part for part in path.parts[:-1] if part in INSTRUCTORS), ""):
        return f"a folder called {part!r} is the instructor's"
    if any(fnmatch(path.name, pattern) for pattern in INSTRUCTORS_FILES):
        return "a file of this name is the instructor's"
    return ""


def _private_texts(course: Course) -> Iterator[tuple[str, str]]:
    """What the text would be, and the text."""
    yield "the path of the instructor's course", f"{course.root}/"
    if sys.prefix != sys.base_prefix:  # an environment of the instructor's, not /usr
        yield "the path of this Python", f"{sys.prefix}/"
    if len(Path.home().parts) > 1:
        yield "the path of a home folder", f"{Path.home()}/"
    if course.seed_key.is_file():
        yield "the gradebook's secret key", course.seed_key.read_text(errors="replace").strip()
    for name, value in os.environ.items():
        if SECRET_NAME.search(name) and len(value) >= SHORTEST_SECRET:
            yield f"the value of ${name}", value


def _private(content: bytes, private: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield from (what for what, text in private if text and text.encode() in content)
    text = content.decode("utf-8", "replace")
    if SECRETS.search(text):
        yield "what looks like a secret key"
    if match := HOMES.search(text):
        yield f"a path of some machine, {match[0]}"


def _texts(path: Path) -> Iterator[str]:
    """The texts of a file: of a notebook all that it holds, of a file that is no text none."""
    if path.suffix == ".ipynb":
        yield from texts_in(read_notebook(path))
        return
    try:
        yield path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return


def _leaks(text: str, hidden: set[str], answers: Answers, length: int) -> Iterator[str]:
    if lines := hidden & {line.strip() for line in text.splitlines()}:
        yield f"a line of the hidden tests: {min(lines)}"
    if phrase := next((phrase for phrase in PHRASES if f"### {phrase}" in text), ""):
        yield f"the marker ### {phrase}"
    if answer := answers.repeated_in(text, length=length):
        yield f"repeats {answer}"
