"""Grade one submission: find and rebuild it, have its answers graded, sum up."""

import ast
import hashlib
import hmac
import os
import platform
import secrets
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from grader.box.boxes import Boxes
from grader.box.tier import Limits, Tier
from grader.checks.core import PUBLIC_SEED, Check, Lab
from grader.course import Course
from grader.grading.cache import Cache, environment
from grader.grading.questions import Job, Question
from grader.grading.receipts import receipt, restore, stamp
from grader.notebooks import (
    InvalidNotebookError,
    Notebook,
    grade_id,
    is_grade,
    is_solution,
    nbgrader,
    read_notebook,
)
from grader.results import CellResult, Result, Status, summarise
from grader.transplant import Transplanted, find_submission, transplant

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


class Grading:
    """Grades submissions of one lab, in many threads at a time."""

    def __init__(
        self,
        course: Course,
        lab: Lab,
        tier: Tier,
        answer: Callable[[Job], tuple[CellResult, ...]],
        *,
        fresh: bool = False,
    ) -> None:
        """Read the release and find out what results depend on.

        Args:
            course: The course.
            lab: The lab's definition.
            tier: What holds the submissions; recorded.
            answer: Grades one submission's answers, here or on another machine.
            fresh: Grade again what was graded before.
        """
        self._course, self._lab, self._tier, self._answer = course, lab, tier, answer
        self._fresh = fresh
        self._release = read_notebook(course.release(lab.name))
        self._cells = graded_cells(self._release, lab.checks)
        self._key = seed_key(course)
        self._versions = versions()
        facts = (tier, Limits.of(lab), self._versions, self._key)
        path = course.release(lab.name)
        self._cache = Cache(course.cache(lab.name), environment(lab.name, path, *facts))

    def grade(self, student: str) -> tuple[Result, Transplanted | None]:
        """Grade what lies in a student's folder; never raises for what the student handed in.

        Raises:
            OSError: This machine cannot grade it now: no box can be made, no worker answers.
        """
        started = time.monotonic()
        folder = self._course.submitted(self._lab.name, student).parent
        aside = self._course.reports(self._lab.name) / f"{student}.receipt"
        restore(folder, aside)
        result = self._result(folder, student)
        try:
            stamp(folder, aside)
            path, found = find_submission(folder, self._lab.name, self._release)
            submission = transplant(self._release, read_notebook(path))
        except InvalidNotebookError as error:
            return _invalid(result, str(error)), None
        cells = self._graded(submission)
        status, reason = summarise(cells)
        if not submission.answered:
            reason = "nothing was answered"
        scored = result(
            status=status,
            reason=reason,
            score=sum(cell.score for cell in cells),
            sha256=submission.sha256,
            seconds=round(time.monotonic() - started, 2),
            cells=cells,
            notes=(*found, *submission.notes),
        )
        return scored, submission

    def _graded(self, submission: Transplanted) -> tuple[CellResult, ...]:
        known = None if self._fresh else self._cache.get(submission.sha256)
        if known is not None:
            return known
        cells = self._answer(self._job(submission))
        self._cache.put(submission.sha256, cells)
        return cells

    def _job(self, submission: Transplanted) -> Job:
        asked = [
            Question(
                cell=cell.name,
                check=cell.check.name,
                hidden=cell.hidden,
                points=cell.points,
                seeds=hidden_seeds(self._key, submission.sha256, cell.check)
                if cell.hidden
                else (PUBLIC_SEED,),
            )
            for cell in self._cells
        ]
        cells = tuple(submission.cells_to_run())
        return Job(lab=self._lab.name, cells=cells, questions=tuple(asked))

    def failed(self, student: str, error: Exception) -> Result:
        """The INVALID result of a submission that the grader itself fails on, with a trace."""
        path = self._course.reports(self._lab.name) / "failures" / f"{student}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        folder = self._course.submitted(self._lab.name, student).parent
        reason = f"the grader failed on it ({type(error).__name__}): it has not been graded"
        return _invalid(self._result(folder, student), reason)

    def refuse(self, name: str) -> Result:
        """The INVALID result of a folder in `submitted/` whose name cannot be a student's id.

        It stands under a name made from the folder's: no file and no page is called after it.
        """
        student = f"unsafe-{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}"
        folder = self._course.submitted(self._lab.name, name).parent
        shown = ascii(name if len(name) <= SHOWN_CHARACTERS else name[:SHOWN_CHARACTERS] + "…")
        reason = (
            f"submitted/ has a folder {shown}, which cannot be a student's id: rename it to 1 to "
            "100 letters, digits or _ . @ - that begin with a letter or digit"
        )
        return _invalid(self._result(folder, student), reason)

    def _result(self, folder: Path, student: str) -> Callable[..., Result]:
        """A result that lacks only how the submission did."""
        return partial(
            Result,
            student=student,
            lab=self._lab.name,
            max_score=sum(cell.points for cell in self._cells),
            tier=str(self._tier),
            received=receipt(folder).isoformat(),
            versions=self._versions,
        )


def _invalid(result: Callable[..., Result], reason: str) -> Result:
    return result(status=Status.INVALID, reason=reason, score=0.0, sha256="", seconds=0.0)


def boxes_for(course: Course, lab: Lab, tier: Tier) -> Boxes:
    """Boxes that have imported what the release's setup cells import; to be entered."""
    return Boxes(lab, tier, imports=_imported_by(read_notebook(course.release(lab.name))))


def _imported_by(release: Notebook) -> tuple[str, ...]:
    """Modules that the release's own setup cells import: safe to import once for everybody."""
    names: dict[str, None] = {}
    for cell in transplant(release, release).cells_to_run():
        if cell["id"] in {grade_id(c) for c in release["cells"] if is_solution(c)}:
            continue
        for node in ast.walk(ast.parse(cell["source"])):
            if isinstance(node, ast.Import):
                names |= dict.fromkeys(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= dict.fromkeys(f"{node.module}.{alias.name}" for alias in node.names)
                names |= {node.module: None}
    return tuple(names)
