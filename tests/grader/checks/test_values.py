"""Exact types first, then tolerance; nothing an object says about itself is believed."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from grader.checks.values import Tolerance, describe, difference

LOOSE = Tolerance(rtol=1e-3, atol=1e-6, reason="a test")


class EqualToAll:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.ones(3, dtype=np.float32)


class MyFloat(float):
    def __sub__(self, other: float) -> float:
        return 0.0


@pytest.mark.parametrize(
    ("got", "expected", "clause"),
    [
        (torch.ones(3), np.ones(3, np.float32), "expected numpy.ndarray"),
        (torch.ones(3, 2), torch.ones(2, 3), "expected shape (2, 3), got (3, 2)"),
        (torch.ones(1, 3), torch.ones(3), "expected shape (3,), got (1, 3)"),
        (torch.ones(3).double(), torch.ones(3), "expected dtype float32, got float64"),
        (torch.ones(3).bfloat16(), torch.ones(3), "expected dtype float32, got bfloat16"),
        (torch.tensor([1.0, math.nan]), torch.ones(2), "1 of 2 values are nan or infinite"),
        (torch.tensor([1.0, math.inf]), torch.ones(2), "1 of 2 values are nan or infinite"),
        (torch.tensor([1.0, 1.1]), torch.ones(2), "1 of 2 values differ, by up to 0.1"),
        (torch.nn.Parameter(torch.ones(2)), torch.ones(2), "torch.nn.parameter.Parameter"),
        (EqualToAll(), torch.ones(3), "EqualToAll"),
        (EqualToAll(), "text", "EqualToAll"),
        (MyFloat(1.0), 1.0, "MyFloat"),
        (1, 1.0, "expected float, got int 1"),
        (True, 1, "expected int, got bool True"),
        (np.float64(1.0), 1.0, "numpy.float64"),
        (None, 2.0, "got None"),
        ([1.0], (1.0,), "expected tuple"),
        ([1.0, 2.0], [1.0], "expected 1 entries, got 2"),
        ([1.0, 2.5], [1.0, 2.0], "entry 1 (counted from 0): the value differs"),
        (math.nan, 1.0, "nan or infinite"),
        ("b", "a", "not the right value"),
        (False, True, "this must hold, and it does not"),
    ],
)
def test_a_difference_is_named(got: object, expected: object, clause: str) -> None:
    assert clause in difference(got, expected, LOOSE)


@pytest.mark.parametrize(
    "value",
    [1.5, 3, "a", True, None, [1, (2.0, "x")], np.arange(4), torch.ones(2).bfloat16(), math.inf],
)
def test_a_value_equals_itself(value: object) -> None:
    assert difference(value, value, LOOSE) == ""


def test_an_array_of_objects_is_refused() -> None:
    objects = np.array([EqualToAll(), EqualToAll()], dtype=object)
    assert "not accepted" in difference(objects, objects, LOOSE)


def test_a_message_does_not_show_expected_scalars() -> None:
    assert "secret" not in difference("guess", "secret", LOOSE)
    assert "3.25" not in difference(1.0, 3.25, LOOSE).replace("2.25", "")


def test_tolerance_is_relative_to_the_expected_value() -> None:
    assert difference(1000.5, 1000.0, LOOSE) == ""
    assert difference(0.5, 0.0, LOOSE) != ""


def test_describe_shows_no_array_content() -> None:
    assert describe(torch.full((2,), 7.0)) == "torch.Tensor of float32, shape (2,)"
