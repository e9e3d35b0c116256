"""What every lab's `check.py` is written with: its checks, and the draws that their data share."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from grader.checks.core import EXACT, Arrays, Check, hand_over
from grader.checks.values import Tolerance

Kind = TypeVar("Kind")


def exercise(
    lab: str,
    name: str,
    points: int,
    inputs: Callable[[np.random.Generator], Arrays],
    hint: str,
    *,
    tolerance: Tolerance = EXACT,
    symbol: str = "",
    expect: Callable[[Arrays], Arrays] | None = None,
    hints: Mapping[str, Mapping[str, str]] | None = None,
) -> Check:
    """The check of one exercise, whose other parts the lab's folder has under the same name.

    Its drive is `DRIVES[name]` of the lab's `drive.py`. Its reference is `IMPLEMENTATIONS[name]` of
    the lab's `reference.py`, which imports labkit and is imported when it is needed, not before.
    `HAND_OVER[name]` of `outside.py` hands the inputs over, where there is one.

    Args:
        lab: The lab's folder in `grader/labs`.
        hints: Hints for findings of their own, by exercise; one without any may be left out.

    The other arguments are those of `Check`.
    """
    return Check(
        name=name,
        points=points,
        inputs=inputs,
        drive=import_module(f"grader.labs.{lab}.drive").DRIVES[name],
        reference=lambda: import_module(f"grader.labs.{lab}.reference").IMPLEMENTATIONS[name],
        hint=hint,
        tolerance=tolerance,
        expect=expect,
        hand_over=hand_over(lab, name),
        symbol=symbol,
        hints=(hints or {}).get(name, {}),
    )


def normal(rng: np.random.Generator, *shape: int) -> Tensor:
    """Standard normal float32 numbers."""
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))


def every_kind(rng: np.random.Generator, kinds: Sequence[Kind], *, more: int) -> list[Kind]:
    """Every kind once and `more` drawn ones in random order, so that no place gives one away."""
    drawn = [*kinds, *(kinds[int(i)] for i in rng.integers(0, len(kinds), size=more))]
    rng.shuffle(drawn)
    return drawn
