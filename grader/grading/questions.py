"""The part of grading that runs where a box is: a job of plain data goes in, results come out."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from grader.box.boxes import Boxes
from grader.checks.core import Check
from grader.grading.attempt import Attempt, Outcome
from grader.results import CellResult, Status

MOST_CHARACTERS = 2_000
BLOCKED = "this exercise needs {needs}, which the grading machine does not have: it was not graded"


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One graded cell: the check it stands for, its points, and the seeds to ask it with."""

    cell: str
    check: str
    hidden: bool
    points: float
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """All that is needed to grade one submission's answers, and nothing about who gave them."""

    lab: str
    cells: tuple[dict[str, str], ...]
    questions: tuple[Question, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Job":
        questions = tuple(
            Question(**question | {"seeds": tuple(question["seeds"])})
            for question in fields["questions"]
        )
        return cls(lab=fields["lab"], cells=tuple(fields["cells"]), questions=questions)


def answer(boxes: Boxes, job: Job) -> tuple[CellResult, ...]:
    """Run a submission's cells in a box and ask it every question.

    After a question ended its box, its hidden cell is not tried again.
    """
    attempt = Attempt(boxes, list(job.cells))
    graded: list[CellResult] = []
    try:
        for question in job.questions:
            before = graded[-1] if graded and graded[-1].check == question.check else None
            graded.append(_ask(attempt, boxes.lab.check(question.check), question, before))
    finally:
        attempt.close()
    return tuple(graded)


def _ask(
    attempt: Attempt, check: Check, question: Question, before: CellResult | None
) -> CellResult:
    started = time.monotonic()
    outcome, seeds = Outcome(status=Status.OK), question.seeds
    if before is not None and before.status not in (Status.OK, Status.WRONG):
        outcome = Outcome(status=before.status, message=before.message, detail=before.detail)
        seeds = ()
    elif not _has(check.needs):
        outcome = Outcome(status=Status.BLOCKED, message=BLOCKED.format(needs=check.needs))
        seeds = ()
    for seed in seeds:
        outcome = attempt.outcome(check, seed)
        if outcome.status is not Status.OK:
            break
    return CellResult(
        cell=question.cell,
        check=question.check,
        hidden=question.hidden,
        points=question.points,
        score=question.points if outcome.status is Status.OK else 0.0,
        status=outcome.status,
        message=_plain(outcome.message),
        seeds=seeds,
        seconds=round(time.monotonic() - started, 3),
        detail=_plain(outcome.detail),
    )


def _plain(text: str) -> str:
    """A text that a box had a part in, as long as a sentence may be and without control codes."""
    text = text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _has(needs: str) -> bool:
    """Whether this machine has the hardware that a check needs."""
    if not needs:
        return True
    import torch

    return needs == "cuda" and torch.cuda.is_available()
