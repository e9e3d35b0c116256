"""Asking a submission: references alone, a crash asked once more, outcomes for both readers."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from grader.box.session import BoxEnded, Trouble
from grader.box.tier import Limits
from grader.checks.core import Arrays, Check
from grader.grading.attempt import Attempt
from grader.results import Status

LIMITS = Limits(memory_bytes=2**30, wall_s=60.0, question_s=5.0)


class Box:
    """A box that ends as told, the first times it is asked, and then answers."""

    def __init__(self, endings: list[BoxEnded]) -> None:
        self._endings = endings
        self.spent_s = 0.0

    def load(self, job: object) -> dict[str, str]:
        return {}

    def ask(self, check: str, symbol: str, inputs: Arrays, limit_s: float) -> dict[str, Any]:
        if self._endings:
            raise self._endings.pop(0)
        return {"error": "", "outputs": {"value": 7}}

    def close(self) -> None:
        pass


def attempt(*endings: BoxEnded) -> Attempt:
    left = list(endings)
    boxes: Any = SimpleNamespace(limits=LIMITS, start=lambda: Box(left), job=lambda cells: {})
    return Attempt(boxes, [])


def check(expect: Any = None) -> Check:
    return Check(
        name="seven",
        points=1,
        inputs=lambda rng: {},
        drive=lambda impl, data: {"value": impl()},
        reference=lambda: lambda: 7,
        hint="count",
        expect=expect or (lambda data: {"value": 7}),
    )


def ended(trouble: Trouble) -> BoxEnded:
    return BoxEnded(trouble, "it ended", tail=b"last words\x1b[31m")


def test_a_question_that_crashed_once_is_asked_again() -> None:
    assert attempt(ended(Trouble.CRASH)).outcome(check(), 0).status is Status.OK


def test_a_question_that_crashes_twice_is_a_crash_with_a_sentence_for_each_reader() -> None:
    outcome = attempt(ended(Trouble.CRASH), ended(Trouble.CRASH)).outcome(check(), 5)
    assert outcome.status is Status.CRASH
    assert outcome.message == "seven: it ended."
    assert "seed 5" in outcome.detail
    assert "last words\\x1b[31m" in outcome.detail


@pytest.mark.parametrize("trouble", [t for t in Trouble if t is not Trouble.CRASH])
def test_other_endings_are_believed_at_once(trouble: Trouble) -> None:
    assert attempt(ended(trouble)).outcome(check(), 0).status == trouble.value


def test_references_never_run_side_by_side() -> None:
    running, most = 0, 0

    def expect(data: Arrays) -> Arrays:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.02)
        running -= 1
        return {"value": 7}

    asked = check(expect)
    threads = [
        threading.Thread(target=attempt().outcome, args=(asked, seed))
        for seed in np.arange(4).tolist()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
