"""What must not be in a release: markers, stray metadata, unexpected files, solution code."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from grader.notebooks import Cell, Notebook, grade_id, is_grade, is_solution, nbgrader, source, tags
from grader.release.overlap import Answer, Answers
from grader.solved import marked_regions

PHRASES = tuple(
    f"{edge} {what}"
    for edge in ("BEGIN", "END")
    for what in ("SOLUTION", "HIDDEN TESTS", "MARK SCHEME")
)
MARKERS = frozenset(f"### {phrase}" for phrase in PHRASES)
NEARLY = 0.8
LONGEST_MARKER = 40
AUTOTEST = re.compile(r"\s*#.*\bAUTOTEST\b", re.IGNORECASE)
ANSWER = re.compile(
    r"^(?:<[^>]*>|[\W_])*?(?:(?:model|sample|reference|correct|right)\s+)?"
    r"(?:answer|solution)s?[*_ ]*(?:[:=<]|$)",
    re.IGNORECASE | re.MULTILINE,
)
DEFINED = re.compile(r"^(?:async\s+)?(?:def|class)\s+(\w+)|^(\w+)\s*=", re.MULTILINE)
HEADER = re.compile(r"\s*(@|(?:async\s+)?def\s|class\s)")

NOTEBOOK_KEYS = frozenset({"cells", "metadata", "nbformat", "nbformat_minor"})
NOTEBOOK_METADATA = frozenset({"kernelspec", "language_info"})
KERNELSPEC = frozenset({"display_name", "language", "name"})
LANGUAGE_INFO = frozenset(
    {
        "codemirror_mode", "file_extension", "mimetype", "name", "nbconvert_exporter",
        "pygments_lexer", "version",
    }
)  # fmt: skip
CELL_KEYS = frozenset({"cell_type", "execution_count", "id", "metadata", "outputs", "source"})
CELL_METADATA = frozenset({"nbgrader", "tags", "deletable", "editable"})
NBGRADER = frozenset(
    {
        "cell_type", "checksum", "grade", "grade_id", "locked", "points", "schema_version",
        "solution", "task",
    }
)  # fmt: skip
TAGS = frozenset({"parameters"})


def scan(
    solution: Notebook, release: Notebook, folder: Path, files: tuple[str, ...], answers: Answers
) -> list[str]:
    """Return one sentence for each leak; an empty list means the release may go out.

    Args:
        solution: The solved notebook.
        release: What was generated from it.
        folder: Where the release lies; its name is the lab's.
        files: Files that belong beside the notebook.
        answers: The solutions of all labs.
    """
    return [
        *_misspelt_markers(solution),
        *_text_after_answers(solution),
        *_answers_elsewhere(solution),
        *_unprotected_cells(solution),
        *_stray_metadata(release),
        *_stray_cells(release, hidden_lines(solution)),
        *_unexpected_files(folder, files),
        *_repeated_answers(release, folder, files, answers),
    ]


def answers_of(solutions: Mapping[str, Notebook]) -> Answers:
    """Every solution region of the labs' solved notebooks."""
    return Answers(
        [
            Answer(lab=lab, cell=_name(cell), text=region)
            for lab, notebook in solutions.items()
            for cell in notebook["cells"]
            for region in marked_regions(cell, "SOLUTION")
        ]
    )


def hidden_lines(notebook: Notebook) -> set[str]:
    """The lines of all hidden tests, without their indentation."""
    regions = [text for cell in notebook["cells"] for text in marked_regions(cell, "HIDDEN TESTS")]
    return {line.strip() for text in regions for line in text.splitlines() if line.strip()}


def _name(cell: Cell) -> str:
    return grade_id(cell) or str(cell.get("id", "?"))


def is_nearly_a_marker(line: str) -> bool:
    """Whether nbgrader or a reader may take a line for a marker that is not spelt like one."""
    if line.lstrip() in MARKERS:
        return False
    text = line.strip()
    if AUTOTEST.match(text) or any(phrase in text for phrase in PHRASES):
        return True
    if len(text) > LONGEST_MARKER:
        return False
    words = " ".join(re.findall(r"[A-Z]+", text.upper()))
    return any(difflib.SequenceMatcher(a=words, b=p).ratio() >= NEARLY for p in PHRASES)


def _misspelt_markers(solution: Notebook) -> Iterator[str]:
    for cell in solution["cells"]:
        for line in source(cell).splitlines():
            if is_nearly_a_marker(line):
                yield f"cell {_name(cell)}: {line.lstrip()!r} looks like a marker but is none"


def _text_after_answers(solution: Notebook) -> Iterator[str]:
    """After END SOLUTION only another stub may follow: nbgrader releases whatever stands there."""
    for cell in solution["cells"]:
        *_, last = parts = re.split(r"^\s*### END SOLUTION.*$", source(cell), flags=re.MULTILINE)
        for part in parts[1:]:
            text = part.strip()
            if text and (part is last or not HEADER.match(text)):
                yield (
                    f"cell {_name(cell)}: {text.splitlines()[0]!r} comes after ### END SOLUTION "
                    "and would be released"
                )


def _answers_elsewhere(solution: Notebook) -> Iterator[str]:
    """Answers in cells that nothing clears."""
    names = {
        name
        for cell in solution["cells"]
        if is_solution(cell) and cell["cell_type"] == "code"
        for name in _defined(source(cell))
    }
    for cell in solution["cells"]:
        if is_solution(cell):
            continue
        if cell["cell_type"] == "code":
            for name in sorted(names & _defined(source(cell))):
                yield f"cell {_name(cell)}: defines {name} and is no solution cell"
        elif match := ANSWER.search(source(cell)):
            yield f"cell {_name(cell)}: {match[0].strip()!r} in a cell that nothing clears"


def _defined(code: str) -> set[str]:
    return {first or second for first, second in DEFINED.findall(code)}


def _unprotected_cells(solution: Notebook) -> Iterator[str]:
    for cell in solution["cells"]:
        body = source(cell)
        if is_solution(cell) and cell["cell_type"] == "code" and "### BEGIN SOLUTION" not in body:
            yield f"cell {_name(cell)}: a solution cell without ### BEGIN SOLUTION"
        if is_grade(cell) and not is_solution(cell) and nbgrader(cell).get("locked") is not True:
            yield f"cell {_name(cell)}: a graded cell that is not locked"


def _stray_metadata(release: Notebook) -> Iterator[str]:
    metadata = release["metadata"]
    yield from _not_allowed("the notebook", release, NOTEBOOK_KEYS)
    yield from _not_allowed("the notebook's metadata", metadata, NOTEBOOK_METADATA)
    yield from _not_allowed("the kernelspec", metadata.get("kernelspec"), KERNELSPEC)
    yield from _not_allowed("the language_info", metadata.get("language_info"), LANGUAGE_INFO)
    for cell in release["cells"]:
        where = f"cell {_name(cell)}"
        yield from _not_allowed(where, cell, CELL_KEYS)
        yield from _not_allowed(f"{where}: its metadata", cell["metadata"], CELL_METADATA)
        yield from _not_allowed(f"{where}: its nbgrader metadata", nbgrader(cell), NBGRADER)
        yield from _not_allowed(f"{where}: its list of tags", tags(cell), TAGS)


def _not_allowed(where: str, found: Iterable[str] | None, allowed: frozenset[str]) -> Iterator[str]:
    for name in sorted(set(found or ()) - allowed):
        yield f"{where} has {name!r}"


def _stray_cells(release: Notebook, hidden: set[str]) -> Iterator[str]:
    for cell in release["cells"]:
        if cell.get("outputs") or cell.get("execution_count"):
            yield f"cell {_name(cell)}: it has outputs"
        if any(phrase in source(cell) for phrase in PHRASES):
            yield f"cell {_name(cell)}: a marker is still in it"
        if hidden & {line.strip() for line in source(cell).splitlines()}:
            yield f"cell {_name(cell)}: a line of the hidden tests is in it"


def _unexpected_files(folder: Path, files: tuple[str, ...]) -> Iterator[str]:
    allowed = {f"{folder.name}.ipynb", *files}
    found = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
        if ".ipynb_checkpoints" not in path.parts
    }
    for name in sorted(found - allowed):
        yield f"{name} lies beside the notebook and is not in the lab's list of files"
    for name in sorted(set(files) - found):
        yield f"{name} is in the lab's list of files and missing beside the notebook"


def _repeated_answers(
    release: Notebook, folder: Path, files: tuple[str, ...], answers: Answers
) -> Iterator[str]:
    for cell in release["cells"]:
        for text in (source(cell), "\n".join(texts_in(cell.get("outputs")))):
            if answer := answers.repeated_in(text, lab=folder.name):
                yield f"cell {_name(cell)}: repeats {answer}"
    for name in files:
        if not (folder / name).is_file():
            continue  # `_unexpected_files` says so
        text = (folder / name).read_bytes().decode(errors="replace")
        if answer := answers.repeated_in(text, lab=folder.name):
            yield f"{name}: repeats {answer}"


def texts_in(value: Any) -> Iterator[str]:
    """Every text in a notebook's outputs or metadata, lists of lines joined."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and all(isinstance(item, str) for item in value):
        yield "".join(value)
    elif isinstance(value, list):
        for item in value:
            yield from texts_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from texts_in(item)
