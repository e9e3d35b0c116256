"""A submission's questions: what a box had a part in is short and plain when it is kept."""

from typing import Any

import pytest

from grader.box.tier import Limits
from grader.checks.core import Check, Lab
from grader.grading.questions import Job, Question, answer
from grader.results import Status

QUESTION = Question(cell="check_seven", check="seven", hidden=False, points=2.0, seeds=(1,))
JOB = Job(lab="a_lab", cells=({"id": "seven", "source": ""},), questions=(QUESTION,))


class Box:
    """Answers every question with the same error."""

    def __init__(self, error: str) -> None:
        self._error = error
        self.spent_s = 0.0

    def load(self, job: object) -> dict[str, str]:
        return {}

    def ask(self, *question: object) -> dict[str, Any]:
        return {"error": self._error, "outputs": None}

    def close(self) -> None:
        pass


class Boxes:
    def __init__(self, error: str) -> None:
        check = Check(
            name="seven",
            points=2,
            inputs=lambda rng: {},
            drive=lambda impl, data: {"value": impl()},
            reference=lambda: lambda: 7,
            hint="count",
        )
        self.lab = Lab(name="a_lab", checks=(check,), teaches=())
        self.limits, self._error = Limits.of(self.lab), error

    def start(self) -> Box:
        return Box(self._error)

    def job(self, cells: object) -> dict[str, object]:
        return {}


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        ("line one\nline two", "line one\nline two"),
        ("\x1b[2Jgone\r\x07\u202e", "\ufffd[2Jgone\ufffd\ufffd\ufffd"),
        ("x" * 22_000_000, "x" * 1_999 + "…"),
    ],
)
def test_a_message_is_kept_short_and_without_control_codes(error: str, kept: str) -> None:
    boxes: Any = Boxes(error)
    [cell] = answer(boxes, JOB)
    assert (cell.status, cell.score, cell.message) == (Status.WRONG, 0.0, kept)
