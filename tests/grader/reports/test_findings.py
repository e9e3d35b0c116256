"""Messages taken apart, and without values: for hidden inputs, and to count like failures."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grader.checks.core import compare, load_lab, verdicts
from grader.checks.values import Tolerance
from grader.reports.findings import HINT, Finding, finding, for_student, kind, without_values
from grader.results import CellResult, Status

DIGIT_OUTSIDE_A_NAME = re.compile(r"(?<![A-Za-z_\d])\d|(?<=\.)\d")
SEEDS = (99, 100, 20_240_601, 7_919)
LABS = ("lab03_lora", "lab09_generation", "lab15_quantization")


def cell(message: str, *, hidden: bool = True, status: Status = Status.WRONG) -> CellResult:
    return CellResult(
        cell="hidden_f", check="f", hidden=hidden, points=1, score=0, status=status,
        message=message, seeds=(7,), seconds=0.1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        (
            "delta: 3 of 12 values differ, by up to 0.5 (allowed: rounding of sums). Hint: divide.",
            ("delta", "equal but for rounding of sums", "3 of 12 values differ, by up to 0.5"),
        ),
        (
            "chunk 2, T=1: keys: expected shape (2, 3), got (3, 2). Hint: divide.",
            ("chunk 2, T=1: keys", "shape (2, 3)", "(3, 2)"),
        ),
        (
            "q_proj is wrapped: this must not hold, and it does. Hint: divide.",
            ("q_proj is wrapped", "it does not hold", "it does"),
        ),
        (
            "layer 3 of 12: answer: str 'healthy' is not the right value. Hint: divide.",
            ("layer 3 of 12: answer", "another value", "str 'healthy'"),
        ),
        (
            "forward: entry 3 (counted from 0): expected float, got int 3. Hint: divide.",
            ("forward", "float", "entry 3 (counted from 0): int 3"),
        ),
        (
            "f raised ValueError: expected 3, got 4, at line 2 of the cell: `g(4)`. Hint: divide.",
            ("", "", "f raised ValueError: expected 3, got 4, at line 2 of the cell: `g(4)`"),
        ),
    ],
)
def test_a_message_is_taken_apart(message: str, parts: tuple[str, str, str]) -> None:
    checked, expected, came = parts
    assert finding(message) == Finding(
        checked=checked, expected=expected, came=came, hint="divide."
    )


@pytest.mark.parametrize(
    "planted",
    [
        "0.73125",
        "-8.25e-05",
        "(17, 23)",
        "'marmalade'",
        '"marmalade"',
        "[1, 2, 3]",
        "14x20",
        "True",
    ],
)
@pytest.mark.parametrize("around", ["{}", "f: expected {}, got 5.", "KeyError: {}", "x={} is y"])
def test_no_value_of_a_hidden_cell_is_shown(around: str, planted: str) -> None:
    shown = for_student(cell(around.format(planted) + " Hint: what divides what?"))
    assert planted not in shown
    assert not DIGIT_OUTSIDE_A_NAME.search(shown)
    assert "marmalade" not in shown
    assert shown.endswith("Hint: what divides what?")


def test_property_place_and_names_stay() -> None:
    message = "delta: expected dtype bfloat16, got float32. Hint: round 1 time."
    assert for_student(cell(message)) == message
    raised = "f raised ValueError: lora_A2 is 3, at line 12 of the cell: `y = 'k' + 3`."
    shown = "f raised ValueError: lora_A2 is …, at line 12 of the cell: `y = 'k' + 3`."
    assert for_student(cell(raised)) == shown


def test_what_is_not_hidden_and_what_the_grader_itself_says_stays_whole() -> None:
    message = "f: it took longer than 10 s."
    assert for_student(cell(message, status=Status.TIMEOUT)) == message
    message = "f: expected 5 entries, got 3."
    assert for_student(cell(message, hidden=False)) == message
    assert for_student(cell(message)) == "f: expected … entries, got …."


VALUES = st.one_of(
    st.integers(10, 10**9), st.floats(allow_nan=False).filter(lambda x: x != 0), st.text(min_size=3)
)


@given(expected=VALUES, got=VALUES, shape=st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_nothing_that_a_comparison_says_gives_a_value_away(
    expected: Any, got: Any, shape: list[int]
) -> None:
    pairs = [
        (got, expected),
        ([got, got], [expected]),
        (torch.ones(shape), torch.zeros(shape)),
        (np.ones(shape), np.zeros([2, *shape])),
    ]
    for mine, right in pairs:
        verdict = compare({"the output": mine}, {"the output": right}, Tolerance(reason="exact"))
        shown = for_student(cell(verdict.message))
        assert not DIGIT_OUTSIDE_A_NAME.search(shown), (verdict.message, shown)


@pytest.mark.parametrize("lab", LABS)
def test_every_known_mistake_keeps_its_hint_and_loses_its_values(
    mutants: Callable[[str, str], dict[str, Any]], lab: str
) -> None:
    for check in load_lab(lab).checks:
        for name, mutant in mutants(lab, check.name).items():
            message = verdicts(check, mutant, SEEDS).message
            said, _, hint = for_student(cell(message)).partition(HINT)
            assert not DIGIT_OUTSIDE_A_NAME.search(said), (name, said)
            assert hint == message.partition(HINT)[2]
            assert re.search("[a-z]{3}", said), (name, message)


def test_like_failures_have_one_kind() -> None:
    alike = [
        "blocks.0.attn.q is frozen: 3 of 12 values differ, by up to 0.5 (allowed: x). Hint: a",
        "blocks.11.mlp.up is frozen: 9 of 10 values differ, by up to 1e-05 (allowed: x). Hint: b",
    ]
    assert len({kind(message) for message in alike}) == 1
    raised = [f"f raised NameError: name '{n}' is not defined, at line 4 of x.py" for n in "ab"]
    raised.append("f raised NameError: name 'z' is not defined, at line 17 of the cell: `z`.")
    assert {kind(message) for message in raised} == {"f raised NameError: name … is not defined"}


def test_other_failures_have_another_kind() -> None:
    messages = [
        "delta: 3 of 12 values differ, by up to 0.5 (allowed: x).",
        "delta: 3 of 12 values are nan or infinite.",
        "delta: expected shape (2, 3), got (3, 2).",
        "delta: expected dtype bfloat16, got float32.",
        "gradient: 3 of 12 values differ, by up to 0.5 (allowed: x).",
        "f raised KeyError: 'a', at line 1 of the cell: `a`.",
        "f raised ValueError: 'a', at line 1 of the cell: `a`.",
    ]
    assert len({kind(message) for message in messages}) == len(messages)


def test_of_a_flood_only_the_beginning_is_read() -> None:
    flood = "f raised ValueError: " + "marmalade " * 1000
    end = " Hint: SECRET"
    assert "SECRET" not in str(finding(flood + end))
    assert "SECRET" not in for_student(cell(flood + end))
    assert kind(flood + "x") == kind(flood + "y")


def test_a_value_whose_closing_quote_was_cut_off_is_one() -> None:
    assert (
        for_student(cell("f raised ValueError: 'marmalade and so on…")) == "f raised ValueError: …"
    )
    assert for_student(cell("it's what the students' code does")) == (
        "it's what the students' code does"
    )


def test_an_endless_message_is_cut() -> None:
    assert len(without_values("x" * 10**6)) < 1000
