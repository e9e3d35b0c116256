"""One submission's boxes: started, restarted after every death, until its time is up."""

import time
from typing import Any

import numpy as np

from grader.box.boxes import Boxes
from grader.box.session import BoxEnded, Session, Trouble
from grader.checks.core import Arrays, Check
from grader.results import Status
from grader.transplant import Transplanted


class Attempt:
    """Asks a submission one question after another; use it from one thread and close it."""

    def __init__(self, boxes: Boxes, submission: Transplanted) -> None:
        self._boxes = boxes
        self._cells = submission.cells_to_run()
        self._deadline = time.monotonic() + boxes.limits.wall_s
        self._box: Session | None = None
        self._failures: dict[str, tuple[Status, str]] = {}

    def close(self) -> None:
        """Kill the box that is running, if one is."""
        if self._box is not None:
            self._box.close()
        self._box = None

    def verdict(self, check: Check, seed: int) -> tuple[Status, str]:
        """Ask for one answer and compare it with what labkit gives for the same inputs."""
        expected = check.expected(check.inputs(np.random.default_rng(seed)))
        inputs = check.inputs(np.random.default_rng(seed))
        try:
            box = self._ready()
            limit_s = min(self._boxes.limits.question_s, self._time_left())
            answer = box.ask(check.name, check.implementation, inputs, limit_s)
        except BoxEnded as ended:
            self.close()
            return Status(ended.trouble), f"{check.implementation}: {ended.message}."
        return self._compared(check, answer, expected)

    def _compared(
        self, check: Check, answer: dict[str, Any], expected: Arrays
    ) -> tuple[Status, str]:
        if answer["error"]:
            return self._failures.get(check.name, (Status.WRONG, answer["error"]))
        verdict = check.verdict(answer.get("outputs"), expected)
        return (Status.OK if verdict.ok else Status.WRONG), verdict.message

    def _ready(self) -> Session:
        """A box with the cells run; a cell that kills its box is left out of the next."""
        while self._box is None:
            self._time_left()
            box = self._boxes.start()
            try:
                errors = box.load(self._boxes.job(self._cells))
            except BoxEnded as ended:
                box.close()
                self._leave_out(ended)
            except BaseException:
                box.close()
                raise
            else:
                self._failures |= {name: (Status.WRONG, text) for name, text in errors.items()}
                self._box = box
        return self._box

    def _leave_out(self, ended: BoxEnded) -> None:
        kept = [cell for cell in self._cells if cell["id"] != ended.cell]
        if len(kept) == len(self._cells):
            raise ended
        self._cells = kept
        message = f"its cell stopped the program: {ended.message}."
        self._failures[ended.cell] = Status(ended.trouble), message

    def _time_left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            limit = self._boxes.limits.wall_s
            raise BoxEnded(Trouble.TIMEOUT, f"the submission ran longer than {limit:g} s")
        return left
