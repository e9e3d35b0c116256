"""One submission's boxes: forked, replaced after every death, until its time is up."""

import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from grader.box.boxes import Boxes
from grader.box.meter import PATIENCE
from grader.box.session import BoxEnded, Session, Trouble
from grader.checks.core import Arrays, Check
from grader.results import Status

# A drive may seed and read torch's global generator, which all threads share.
_one_reference_at_a_time = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one question went: a sentence for the student, and one for the instructor."""

    status: Status
    message: str = ""
    detail: str = ""


class Attempt:
    """Asks a submission one question after another; use it from one thread and close it."""

    def __init__(self, boxes: Boxes, cells: list[dict[str, str]]) -> None:
        self._boxes = boxes
        self._cells = cells
        self._latest = time.monotonic() + PATIENCE * boxes.limits.wall_s
        self._spent_s = 0.0
        self._box: Session | None = None
        self._failures: dict[str, Outcome] = {}
        self._crashed: set[str] = set()

    def close(self) -> None:
        """Kill the box that is running, if one is."""
        if self._box is not None:
            self._box.close()
            self._spent_s += self._box.spent_s
        self._box = None

    def outcome(self, check: Check, seed: int) -> Outcome:
        """Ask for one answer and compare it with what labkit gives for the same inputs.

        A question in which the process ends is asked once more: something else may have ended it.
        """
        with _one_reference_at_a_time:
            expected = check.expected(check.inputs(np.random.default_rng(seed)))
        try:
            answer = self._answer(check, seed)
        except BoxEnded as ended:
            message = f"{check.implementation}: {ended.message}."
            detail = f"{ended.message}, with seed {seed}; last output: {_tail(ended)}"
            return Outcome(status=Status(ended.trouble), message=message, detail=detail)
        return self._compared(check, answer, expected)

    def _answer(self, check: Check, seed: int) -> dict[str, Any]:
        while True:
            inputs = check.question(seed)
            box = self._ready()
            limit_s = min(self._boxes.limits.question_s, self._time_left())
            try:
                return box.ask(check.name, check.implementation, inputs, limit_s)
            except BoxEnded as ended:
                self.close()
                if not self._crashes_first_time(f"{check.name}:{seed}", ended):
                    raise

    def _crashes_first_time(self, place: str, ended: BoxEnded) -> bool:
        if ended.trouble is not Trouble.CRASH or place in self._crashed:
            return False
        self._crashed.add(place)
        return True

    def _compared(self, check: Check, answer: dict[str, Any], expected: Arrays) -> Outcome:
        if answer["error"]:
            failed = Outcome(status=Status.WRONG, message=answer["error"])
            return self._failures.get(check.name, failed)
        verdict = check.verdict(answer.get("outputs"), expected)
        return Outcome(status=Status.OK if verdict.ok else Status.WRONG, message=verdict.message)

    def _ready(self) -> Session:
        """A box with the cells run; a cell that ends its box is left out of the next."""
        while self._box is None:
            self._time_left()
            box = self._boxes.start()
            try:
                errors = box.load(self._boxes.job(self._cells))
            except BoxEnded as ended:
                box.close()
                self._spent_s += box.spent_s
                if not self._crashes_first_time(f"cell {ended.cell}", ended):
                    self._leave_out(ended)
            except BaseException:
                box.close()
                raise
            else:
                self._failures |= {
                    name: Outcome(status=Status.WRONG, message=text)
                    for name, text in errors.items()
                }
                self._box = box
        return self._box

    def _leave_out(self, ended: BoxEnded) -> None:
        kept = [cell for cell in self._cells if cell["id"] != ended.cell]
        if len(kept) == len(self._cells):
            raise ended
        self._cells = kept
        self._failures[ended.cell] = Outcome(
            status=Status(ended.trouble),
            message=f"its cell stopped the program: {ended.message}.",
            detail=f"in cell {ended.cell}: {ended.message}; last output: {_tail(ended)}",
        )

    def _time_left(self) -> float:
        """What the submission's boxes may still spend, as `Meter` counts it."""
        limit = self._boxes.limits.wall_s
        spent_s = self._spent_s + (self._box.spent_s if self._box is not None else 0.0)
        left = min(limit - spent_s, self._latest - time.monotonic())
        if left <= 0:
            raise BoxEnded(Trouble.TIMEOUT, f"the submission ran longer than {limit:g} s")
        return left


def _tail(ended: BoxEnded) -> str:
    """What the box printed last, as one printable line."""
    return ascii(ended.tail.decode(errors="replace").strip()[-200:])
