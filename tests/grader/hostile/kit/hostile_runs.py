"""Runs of the grader over a class, and what was seen around each."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hostile_machine as machine
from hostile_class import LAB, Class

from grader.box.tier import Tier
from grader.course import Course
from grader.results import Result, read_results

GRADER = Path(__file__).with_name("hostile_grader.py")
JOBS = "2"
LONGEST_S = 600
STAMP = "timestamp.txt"


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What grading must not change."""

    files: dict[str, str]
    homes_files: list[str]
    folders: list[str]
    mounts: set[str]
    escaped: list[str]
    daemons: list[str]
    shared: list[str]
    port_is_open: bool

    @classmethod
    def of(cls, made: Class) -> "Surroundings":
        root = made.course.root
        return cls(
            files=digests(
                root, ("solutions", "labs", "submitted", "tokens.txt", "gradebook.db.key")
            ),
            homes_files=[f for f in machine.everything(made.home) if f.startswith(".ssh")],
            folders=sorted(path.name for path in root.iterdir()),
            mounts=machine.mounts(),
            escaped=machine.escaped(root, made.home),
            daemons=machine.daemons(),
            shared=machine.shared(),
            port_is_open=machine.somebody_listens(),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run of `grader autograde` over a class, and how the machine looked around it."""

    made: Class
    code: int
    printed: str
    seconds: float
    results: dict[str, Result]
    before: Surroundings
    after: Surroundings
    peak_bytes: int
    left_running: list[str]
    scratch_files: list[str]


@contextmanager
def a_root() -> Iterator[Path]:
    """A folder that every user of the machine may read; whatever lies in it is removed."""
    root = Path(tempfile.mkdtemp(prefix="hostile-"))
    root.chmod(0o755)
    try:
        yield root
    finally:
        subprocess.run(["rm", "-rf", str(root)], check=True)


def command(made: Class, *arguments: str) -> list[str]:
    """How to start the grader as a program of its own on a class."""
    report = made.home.with_name("report.json")
    return [sys.executable, str(GRADER), str(report), "--root", str(made.course.root), *arguments]


def run(made: Class, *arguments: str) -> tuple[int, str, dict[str, Any]]:
    """Run a command of the grader; its exit status, what it printed, its report."""
    done = subprocess.run(
        command(made, *arguments),
        cwd=made.course.root,
        env=made.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=LONGEST_S,
        check=False,
    )
    report = made.home.with_name("report.json")
    found = json.loads(report.read_text()) if report.exists() else {}
    return done.returncode, done.stdout.decode(errors="replace"), found


def grade(made: Class, tier: Tier) -> Run:
    """Grade the class."""
    before, started = Surroundings.of(made), time.monotonic()
    code, printed, report = run(made, "autograde", LAB, "--tier", tier, "--jobs", JOBS)
    seconds = time.monotonic() - started
    assert report, printed[-4000:]
    return Run(
        made=made,
        code=code,
        printed=printed,
        seconds=seconds,
        results=results(made.course),
        before=before,
        after=Surroundings.of(made),
        scratch_files=list(machine.everything(made.scratch)),
        **report,
    )


def results(course: Course) -> dict[str, Result]:
    """All results by student."""
    found = read_results(course.reports(LAB) / "results")
    return {result.student: result for result in found}


def digests(root: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Hashes of the regular files in or below some entries of a folder, time stamps left out."""
    paths = [*names]
    for name in names:
        paths += [f"{name}/{path}" for path in machine.everything(root / name)]
    return {
        path: hashlib.sha256((root / path).read_bytes()).hexdigest()
        for path in paths
        if os.path.isfile(root / path)
        and not os.path.islink(root / path)
        and os.path.basename(path) != STAMP
    }


def untimed(result: Result) -> dict[str, Any]:
    """A result without the seconds in it."""
    from dataclasses import asdict

    fields = asdict(result)
    fields.pop("seconds")
    for cell in fields["cells"]:
        cell.pop("seconds")
    return fields


def grades(course: Course) -> dict[tuple[str, str], tuple[Any, ...]]:
    """The gradebook's rows: by student and cell both scores, whether a person must look, when."""
    from grader.gradebook.opening import opened

    with opened(course) as gradebook:
        return {
            (submission.student.id, grade.name): (
                grade.auto_score,
                grade.manual_score,
                grade.needs_manual_grade,
                submission.timestamp,
            )
            for submission in gradebook.assignment_submissions(LAB)
            for notebook in submission.notebooks
            for grade in notebook.grades
        }


def written(made: Class) -> Iterator[tuple[str, bytes]]:
    """All files that grading made: results, pages, exports, notebooks, the gradebook."""
    root = made.course.root
    for name in ("reports", "feedback", "autograded"):
        for path in machine.everything(root / name):
            if os.path.isfile(root / name / path):
                yield f"{name}/{path}", (root / name / path).read_bytes()
    yield "gradebook.db", made.course.gradebook.read_bytes()
