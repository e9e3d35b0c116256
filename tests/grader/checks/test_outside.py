"""What is called as it is in a notebook refuses what it would refuse from a box."""

import numpy as np
import pytest
import torch

from grader.checks.outside import REFUSED, Outside


def test_it_is_the_function() -> None:
    assert Outside(lambda a, b: a + b, 9)(1, 2) == 3


def test_what_the_function_says_is_told_and_nothing_else() -> None:
    def picky(_: object) -> None:
        raise ValueError("expected a weight")

    with pytest.raises(ValueError, match=r"^expected a weight$"):
        Outside(picky, 9)(1)
    with pytest.raises(ValueError, match=f"^{REFUSED}$"):
        Outside(lambda _: {"planted": 1}["secret"], 9)(1)
    with pytest.raises(ValueError, match=f"^{REFUSED}$"):
        Outside(len, 9)([1], [2])


def test_the_size_of_what_it_is_called_with_is_limited() -> None:
    count = Outside(lambda value: "called", 4)
    for value in (torch.zeros(2, 2), np.zeros(4), [torch.zeros(2), 7], (1, 2, 3), "x" * 100):
        assert count(value) == "called"
    many = torch.zeros(5), [torch.zeros(4), 7], (np.zeros(3), (1, 2)), [[], (), [[]], [1, 2]]
    for value in many:
        with pytest.raises(ValueError, match="the arguments have 5 numbers, more than 4"):
            count(value)
