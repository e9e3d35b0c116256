"""What of lab 15's questions stays outside the box: the quantizers that are to be diagnosed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from grader.checks.outside import Outside

Arrays = dict[str, Any]
MOST_WEIGHTS = 2**20


def quantizers(inputs: Arrays) -> Arrays:
    """Each case's quantizer as a function, with its group size."""
    return {"cases": [_quantizer(**case) for case in inputs["cases"]]}


def _quantizer(fault: int, group_size: int) -> Arrays:
    """A 4-bit asymmetric group quantizer; 0 is healthy, 1 to 4 have one fault each."""
    kept = partial(_quantize, fault, group_size)
    return {"group_size": group_size, "quantize": Outside(kept, MOST_WEIGHTS)}


@torch.no_grad()
def _quantize(fault: int, group_size: int, weight: Any) -> Tensor:
    if type(weight) is not Tensor or weight.ndim != 2:
        raise ValueError("expected a weight (O, I), a tensor of two dimensions")
    if any(n % group_size or not n for n in weight.shape):
        shape = tuple(weight.shape)
        raise ValueError(f"dimensions {shape} must be multiples of group_size={group_size}")
    if fault == 1:
        return _along_rows(fault, group_size, weight.T).T.contiguous()
    return _along_rows(fault, group_size, weight)


def _along_rows(fault: int, group_size: int, weight: Tensor) -> Tensor:
    O, I = weight.shape  # noqa: E741
    groups = weight.reshape(O, I // group_size, group_size)
    low = groups.amin(-1, keepdim=True).clamp(max=0)
    high = groups.amax(-1, keepdim=True).clamp(min=0)
    scale = (high - low) / (16 if fault == 3 else 15)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero = (-low / scale).round().clamp(0, 7 if fault == 2 else 15)
    codes = (groups / scale).round() + zero
    codes = codes.remainder(16) if fault == 3 else codes.clamp(0, 15)
    steps = codes - zero
    if fault == 4:
        scale = scale.roll(1, dims=1)
    return (steps * scale).reshape(O, I)


HAND_OVER: dict[str, Callable[[Arrays], Arrays]] = {"diagnose": quantizers}
