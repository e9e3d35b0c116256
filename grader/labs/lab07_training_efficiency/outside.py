"""What of lab 07's questions stays outside the box: the steps that are to be diagnosed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from grader.checks.outside import Outside

Arrays = dict[str, Any]
MOST_NUMBERS = 2**14
_MEAN_OF_MEANS, _CLIPPED_SCALED, _NO_SCALING, _NO_MASTER = 1, 2, 3, 4


def steps(inputs: Arrays) -> Arrays:
    """Each case's step as a function, with its clip norm and the exponent of its scale."""
    return {"cases": [_case(**case) for case in inputs["cases"]]}


def _case(fault: int, clip: int, exponent: int) -> Arrays:
    """0 is healthy, 1 to 4 have one fault each."""
    step = Outside(partial(_step, fault, clip, exponent), MOST_NUMBERS)
    return {"clip": clip, "exponent": exponent, "step": step}


@torch.no_grad()
def _step(
    fault: int, clip: int, exponent: int, weights: Any, gradients: Any, counted: Any
) -> Tensor:
    """Weights (D,) after one step of SGD at rate 1 with gradients (M, T, D) of tokens."""
    _validate(weights, gradients, counted)
    scale = 1.0 if fault == _NO_SCALING else 2.0**exponent
    tokens = counted.sum(1)
    if fault == _MEAN_OF_MEANS:
        shares = 1 / (tokens.clamp(min=1) * len(tokens))
    else:
        shares = (1 / tokens.sum()).expand(len(tokens))
    of_tokens = (gradients * counted[..., None] * (scale * shares)[:, None, None]).half()
    total = of_tokens.float().sum((0, 1))
    if not total.isfinite().all():
        unmoved: Tensor = weights.clone()
        return unmoved
    if fault == _CLIPPED_SCALED:
        total = _clipped(total, clip) / scale
    else:
        total = _clipped(total / scale, clip)
    stepped: Tensor = weights - total
    return stepped.bfloat16().float() if fault == _NO_MASTER else stepped


def _clipped(gradient: Tensor, norm: float) -> Tensor:
    within: Tensor = gradient * (norm / (gradient.norm() + 1e-6)).clamp(max=1.0)
    return within


def _validate(weights: Any, gradients: Any, counted: Any) -> None:
    for name, x, dims in (("weights", weights, 1), ("gradients", gradients, 3)):
        if type(x) is not Tensor or x.ndim != dims or x.dtype is not torch.float32:
            raise ValueError(f"{name}: expected a float32 tensor of {dims} dimensions")
    if gradients.shape[-1:] != weights.shape:
        shapes = f"{tuple(gradients.shape)} and {tuple(weights.shape)}"
        raise ValueError(f"gradients (M, T, D) and weights (D,) must agree in D, got {shapes}")
    if type(counted) is not Tensor or counted.dtype is not torch.bool:
        raise ValueError("counted: expected a bool tensor")
    if counted.shape != gradients.shape[:2] or not counted.any():
        raise ValueError("counted must be (M, T) as the gradients are, with one True at least")


HAND_OVER: dict[str, Callable[[Arrays], Arrays]] = {"diagnose": steps}
