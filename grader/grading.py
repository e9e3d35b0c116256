"""Grade one submission: its cells run in a box, its answers are compared out here."""

import hashlib
import hmac
import os
import platform
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

from grader.attempt import Attempt
from grader.box.boxes import Boxes
from grader.checks.core import PUBLIC_SEED, Check
from grader.course import Course
from grader.notebooks import (
    InvalidNotebookError,
    Notebook,
    grade_id,
    is_grade,
    nbgrader,
    read_notebook,
)
from grader.results import CellResult, Result, Status, summarise
from grader.transplant import Transplanted, find_submission, transplant

TIMESTAMP = "timestamp.txt"
SHOWN_CHARACTERS = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class GradedCell:
    """A graded cell of the release: which check it stands for and what it is worth."""

    name: str
    check: Check
    hidden: bool
    points: float


def graded_cells(release: Notebook, checks: tuple[Check, ...]) -> list[GradedCell]:
    """The release's graded cells in order, `check_<name>` public and `hidden_<name>` not."""
    by_name = {check.name: check for check in checks}
    cells = []
    for cell in release["cells"]:
        kind, _, name = grade_id(cell).partition("_")
        if is_grade(cell) and name in by_name and kind in ("check", "hidden"):
            points = float(nbgrader(cell)["points"])
            cells.append(
                GradedCell(
                    name=grade_id(cell),
                    check=by_name[name],
                    hidden=kind == "hidden",
                    points=points,
                )
            )
    return cells


def seed_key(course: Course) -> bytes:
    """The course's secret for hidden inputs; made once, readable by its owner only."""
    path = course.seed_key
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
    return bytes.fromhex(path.read_text())


def hidden_seeds(key: bytes, sha256: str, check: Check) -> tuple[int, ...]:
    """Seeds no student can know and a rerun can repeat: keyed hash of answers and question."""
    seeds = []
    for index in range(check.seeds_hidden):
        digest = hmac.digest(key, f"{sha256}:{check.name}:{index}".encode(), hashlib.sha256)
        seeds.append(int.from_bytes(digest[:6], "big"))
    return tuple(seeds)


def versions() -> tuple[tuple[str, str], ...]:
    """Versions a result depends on."""
    names = ("llm-engineering-lab", "torch", "numpy", "nbgrader")
    return (("python", platform.python_version()), *((name, version(name)) for name in names))


def grade_submission(
    boxes: Boxes, folder: Path, student: str, release: Notebook, key: bytes
) -> tuple[Result, Transplanted | None]:
    """Grade what lies in one student's folder; never raises for what the student handed in."""
    started, lab = time.monotonic(), boxes.lab
    cells = graded_cells(release, lab.checks)
    result = _result_of(boxes, folder, student, cells)
    try:
        path, found = find_submission(folder, lab.name, release)
        submission = transplant(release, read_notebook(path))
    except InvalidNotebookError as error:
        return _invalid(result, str(error)), None
    graded = _grade_cells(boxes, submission, cells, key)
    status, reason = summarise(graded)
    if not submission.answered:
        reason = "nothing was answered"
    scored = result(
        status=status,
        reason=reason,
        score=sum(cell.score for cell in graded),
        sha256=submission.sha256,
        seconds=round(time.monotonic() - started, 2),
        cells=tuple(graded),
        notes=(*found, *submission.notes),
    )
    return scored, submission


def refuse_folder(boxes: Boxes, folder: Path, name: str, release: Notebook) -> Result:
    """The INVALID result of a folder in `submitted/` whose name cannot be a student's id.

    It stands under a name made from the folder's, so that no file and no page is called after it.
    """
    student = f"unsafe-{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}"
    result = _result_of(boxes, folder, student, graded_cells(release, boxes.lab.checks))
    shown = ascii(name if len(name) <= SHOWN_CHARACTERS else name[:SHOWN_CHARACTERS] + "…")
    reason = (
        f"submitted/ has a folder {shown}, which cannot be a student's id: rename it to 1 to 100 "
        "letters, digits or _ . @ - that begin with a letter or digit"
    )
    return _invalid(result, reason)


def _result_of(
    boxes: Boxes, folder: Path, student: str, cells: list[GradedCell]
) -> Callable[..., Result]:
    """A result that lacks only how the submission did."""
    return partial(
        Result,
        student=student,
        lab=boxes.lab.name,
        max_score=sum(cell.points for cell in cells),
        tier=str(boxes.tier),
        received=_stamp_receipt(folder),
        versions=versions(),
    )


def _invalid(result: Callable[..., Result], reason: str) -> Result:
    return result(status=Status.INVALID, reason=reason, score=0.0, sha256="", seconds=0.0)


def _stamp_receipt(folder: Path) -> str:
    """When it arrived by this machine's clock, also written where formgrader compares it.

    A student's own time stamp is replaced. The folder keeps its time of modification, which is
    the receipt, so that grading again finds the same.
    """
    status = folder.stat()
    received = datetime.fromtimestamp(int(status.st_mtime), UTC)
    stamp = folder / TIMESTAMP
    if stamp.is_symlink() or not stamp.is_dir():
        stamp.unlink(missing_ok=True)
        stamp.write_text(f"{received:%Y-%m-%d %H:%M:%S} UTC\n", encoding="utf-8")
        os.utime(folder, ns=(status.st_atime_ns, status.st_mtime_ns))
    return received.isoformat()


def _grade_cells(
    boxes: Boxes, submission: Transplanted, cells: list[GradedCell], key: bytes
) -> list[CellResult]:
    """Grade each cell; after a question killed its box, its hidden cell is not tried again."""
    attempt = Attempt(boxes, submission)
    graded: list[CellResult] = []
    try:
        for cell in cells:
            before = graded[-1] if graded and graded[-1].check == cell.check.name else None
            graded.append(_grade_cell(attempt, cell, submission.sha256, key, before))
    finally:
        attempt.close()
    return graded


def _grade_cell(
    attempt: Attempt, cell: GradedCell, sha256: str, key: bytes, before: CellResult | None
) -> CellResult:
    started = time.monotonic()
    seeds = hidden_seeds(key, sha256, cell.check) if cell.hidden else (PUBLIC_SEED,)
    status, message = Status.OK, ""
    if before is not None and before.status not in (Status.OK, Status.WRONG):
        status, message, seeds = before.status, before.message, ()
    for seed in seeds:
        status, message = attempt.verdict(cell.check, seed)
        if status is not Status.OK:
            break
    return CellResult(
        cell=cell.name,
        check=cell.check.name,
        hidden=cell.hidden,
        points=cell.points,
        score=cell.points if status is Status.OK else 0.0,
        status=status,
        message=message,
        seeds=seeds,
        seconds=round(time.monotonic() - started, 3),
    )
