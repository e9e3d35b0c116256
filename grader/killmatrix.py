"""Do a lab's checks tell right from wrong? Every known-wrong answer is graded as a submission is.

Each mutant is handed in as a whole notebook with one wrong answer, next to the solution and the
untouched release, and goes the way of every submission into a result. Only the gradebook is absent.
"""

import hashlib
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from grader.box.tier import Tier
from grader.checks.core import load_lab
from grader.course import Course
from grader.grading.questions import answer
from grader.grading.submission import Grading, boxes_for
from grader.mutants import load_mutants, mutated
from grader.notebooks import (
    Notebook,
    grade_id,
    is_solution,
    read_notebook,
    write_notebook,
)
from grader.results import CellResult, Result, Status
from grader.solved import without_markers

LEAST_MUTANTS = 3
# Of its own text and not of what it does: such a mutant says nothing about the check.
DOES_NOT_RUN = re.compile(r"^the cell |^\w+ is not defined|(raised|failed with) (Name|Unbound)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A notebook to be graded, and which mutant of which question it is; neither if it is none."""

    notebook: Notebook
    question: str = ""
    mutant: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Graded:
    """How a trial's notebook was graded."""

    question: str
    mutant: str
    result: Result

    def cell(self, *, hidden: bool) -> CellResult:
        """The result of the question's public or hidden cell."""
        cells = (c for c in self.result.cells if c.check == self.question and c.hidden is hidden)
        return next(cells)

    def dies(self, *, hidden: bool) -> bool:
        """Whether that cell found the answer wrong; one that was not graded did not."""
        return self.cell(hidden=hidden).status not in (Status.OK, Status.BLOCKED)

    @property
    def killed_by(self) -> str:
        """Which of the question's two cells found it: both, public, hidden or none."""
        public, hidden = self.dies(hidden=False), self.dies(hidden=True)
        return {
            (True, True): "both",
            (True, False): "public",
            (False, True): "hidden",
            (False, False): "none",
        }[public, hidden]

    @property
    def message(self) -> str:
        """What the first cell that found the answer wrong says."""
        return self.cell(hidden=False).message or self.cell(hidden=True).message

    @property
    def problem(self) -> str:
        """What is wrong with this mutant or its check, or an empty string."""
        if not self.dies(hidden=True):
            seeds = ", ".join(map(str, self.cell(hidden=True).seeds))
            return f"survives the hidden cell (seeds {seeds})"
        if DOES_NOT_RUN.search(self.message):
            return f"does not run, which any check would notice: {self.message}"
        return ""

    @property
    def others(self) -> tuple[str, ...]:
        """Other questions that lost points by this one's mistake."""
        lost = [c.check for c in self.result.cells if c.score < c.points]
        return tuple(dict.fromkeys(name for name in lost if name != self.question))


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """What a lab's checks say about its solution, its release and its mutants."""

    lab: str
    solution: Result
    release: Result
    mutants: tuple[Graded, ...]

    @classmethod
    def of(cls, lab: str, graded: Iterable[Graded]) -> "Matrix":
        """From what `grade` yields for all of a lab's `trials`."""
        solution, release, *mutants = graded
        return cls(
            lab=lab, solution=solution.result, release=release.result, mutants=tuple(mutants)
        )

    def problems(self) -> list[str]:
        """One sentence for everything that shows the lab, a check or a mutant to be wrong."""
        found = []
        if self.solution.score < self.solution.max_score:
            got = f"{self.solution.score:g} of {self.solution.max_score:g} points"
            found.append(f"the solution gets {got}: {self.solution.reason}")
        if self.release.score > 0:
            found.append(f"the untouched release gets {self.release.score:g} points")
        count = Counter(mutant.question for mutant in self.mutants)
        for check in load_lab(self.lab).checks:
            if (there := count[check.name]) < LEAST_MUTANTS:
                found.append(f"{check.name} has {there} mutants, fewer than {LEAST_MUTANTS}")
        wrong = [mutant for mutant in self.mutants if mutant.problem]
        return found + [f"{m.question}, {m.mutant!r}: {m.problem}" for m in wrong]


def trials(course: Course, lab: str) -> list[Trial]:
    """The solution, the untouched release and all mutants of a lab.

    Raises:
        ValueError: No such lab, not released as it stands, or a mutant does not fit the solution
            any more.
    """
    known = load_mutants(lab)
    if not course.release(lab).is_file():
        raise ValueError(f"{lab} is not released: run `grader release {lab}` first")
    release, solved = read_notebook(course.release(lab)), read_notebook(course.source(lab))
    released = {grade_id(cell) for cell in release["cells"] if is_solution(cell)}
    if missing := ", ".join(question for question in known if question not in released):
        raise ValueError(
            f"labs/{lab} is older than its solution, it has no {missing}: "
            f"run `grader release {lab}` first"
        )
    made = [Trial(notebook=without_markers(solved)), Trial(notebook=release)]
    for question, mutants in known.items():
        for name, mutant in mutants.items():
            try:
                notebook = mutated(solved, question, mutant)
            except ValueError as error:
                where = f"grader/labs/{lab}/mutants.py, {question}, {name!r}"
                raise ValueError(f"{where}: {error}") from None
            made.append(Trial(notebook=notebook, question=question, mutant=name))
    return made


def grade(
    course: Course,
    lab: str,
    trials: Sequence[Trial],
    *,
    tier: Tier = Tier.BUBBLEWRAP,
    jobs: int | None = None,
    seed: int = 0,
) -> Iterator[Graded]:
    """Grade the trials in a course of their own, which is gone afterwards; yield them in order.

    Args:
        course: Has the lab's release.
        lab: The lab's name.
        trials: What to hand in.
        tier: How submissions are held.
        jobs: Submissions at a time; by default one for each core.
        seed: Another one gives the hidden cells other inputs.

    Raises:
        NoSandboxError: No box of this tier can be started.
    """
    definition, release = load_lab(lab), read_notebook(course.release(lab))
    with (
        tempfile.TemporaryDirectory(prefix="grader-mutants-") as folder,
        boxes_for(course, definition, tier) as boxes,
    ):
        own = Course(root=Path(folder))
        own.seed_key.write_text(hashlib.sha256(str(seed).encode()).hexdigest())
        write_notebook(own.release(lab), release)
        students = [f"trial-{number}" for number in range(len(trials))]
        for student, trial in zip(students, trials, strict=True):
            write_notebook(own.submitted(lab, student), trial.notebook)
        grading = Grading(own, definition, tier, partial(answer, boxes), fresh=True)
        with ThreadPoolExecutor(max_workers=jobs or os.cpu_count()) as pool:
            results = pool.map(grading.grade, students)
            for trial, (result, _) in zip(trials, results, strict=True):
                yield Graded(question=trial.question, mutant=trial.mutant, result=result)


def write(course: Course, matrix: Matrix) -> Path:
    """Write `reports/<lab>/mutants.json`."""
    content = {
        "lab": matrix.lab,
        "tier": matrix.solution.tier,
        "versions": dict(matrix.solution.versions),
        "solution": {"score": matrix.solution.score, "max_score": matrix.solution.max_score},
        "release": {"score": matrix.release.score, "max_score": matrix.release.max_score},
        "mutants": [_as_json(mutant) for mutant in matrix.mutants],
        "problems": matrix.problems(),
    }
    path = course.reports(matrix.lab) / "mutants.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)
    return path


def _as_json(graded: Graded) -> dict[str, Any]:
    cells = {"public": graded.cell(hidden=False), "hidden": graded.cell(hidden=True)}
    return {
        "question": graded.question,
        "mutant": graded.mutant,
        "killed_by": graded.killed_by,
        "others": graded.others,
        **{
            name: {"status": cell.status, "message": cell.message, "seeds": cell.seeds}
            for name, cell in cells.items()
        },
    }
