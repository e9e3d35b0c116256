"""What of lab 06's questions stays outside the box: the training steps to be diagnosed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from grader.checks.outside import Outside

Arrays = dict[str, Any]
MOST_NUMBERS = 2**12
LR = 0.1
_SUMMED, _EARLY, _OWN_START, _ONE_PART = 1, 2, 3, 4


def steps(inputs: Arrays) -> Arrays:
    """Each case's step as a function, with its ranks and micro-batches."""
    return {"cases": [_case(**case) for case in inputs["cases"]]}


def _case(fault: int, n: int, m: int) -> Arrays:
    """A data-parallel step; 0 is healthy, 1 to 4 have one fault each."""
    return {"n": n, "m": m, "step": Outside(partial(_step, fault, n, m), MOST_NUMBERS)}


@torch.no_grad()
def _step(fault: int, n: int, m: int, weights: Any, x: Any, y: Any) -> Tensor:
    """Weights of every rank (n, D) after a step on examples (n, m, D) with their targets (n, m).

    Each micro-batch is one example of a linear model under half the squared error.
    """
    _validate(n, m, weights, x, y)
    start = weights.float().expand(n, -1)
    if fault == _OWN_START:
        start = start + 0.25 * torch.arange(n)[:, None]
    if fault == _ONE_PART:
        x, y = x[:1].expand_as(x), y[:1].expand_as(y)
    error = torch.einsum("nmd,nd->nm", x.float(), start) - y.float()
    gradients = error[..., None] * x.float()  # of each micro-batch
    if fault == _SUMMED:
        update = gradients.mean(1).sum(0).expand(n, -1)
    elif fault == _EARLY:
        update = (gradients[:, 0].mean(0) + gradients[:, 1:].sum(1)) / m
    else:
        update = gradients.mean((0, 1)).expand(n, -1)
    moved: Tensor = start - LR * update
    return moved


def _validate(n: int, m: int, weights: Any, x: Any, y: Any) -> None:
    tables = (weights, x, y)
    if any(type(table) is not Tensor or not table.is_floating_point() for table in tables):
        raise ValueError("expected weights, x and y as tensors of floats")
    D = weights.numel()
    if weights.ndim != 1 or not D or x.shape != (n, m, D) or y.shape != (n, m):
        shapes = ", ".join(str(tuple(table.shape)) for table in tables)
        raise ValueError(f"expected shapes (D,), ({n}, {m}, D) and ({n}, {m}), got {shapes}")


HAND_OVER: dict[str, Callable[[Arrays], Arrays]] = {"diagnose": steps}
