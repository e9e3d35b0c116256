"""What of lab 05's questions stays outside the box: the layers that are to be diagnosed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from grader.checks.outside import Outside

Arrays = dict[str, Any]
MOST_NUMBERS = 2**13
MOST_ROWS = 64
_DEAD, _DROPOUT, _LOST_BIAS, _LEAK = 1, 2, 3, 4
_INNER = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """A frozen layer, and an adapter as its training ends."""

    weight: Tensor
    bias: Tensor
    gate: Tensor
    down: Tensor
    up: Tensor
    up_bias: Tensor
    masks: Tensor


def layers(inputs: Arrays) -> Arrays:
    """Each case's layer as two functions, with its width."""
    return {"cases": [_case(**case) for case in inputs["cases"]]}


def _case(fault: int, width: int, seed: int) -> Arrays:
    """0 is healthy, 1 to 4 have one fault each."""
    weights = _weights(width, seed)
    adapted, exported = (partial(_layer, fault, weights, is_export) for is_export in (False, True))
    return {
        "width": width,
        "adapted": Outside(adapted, MOST_NUMBERS),
        "exported": Outside(exported, MOST_NUMBERS),
    }


def _weights(D: int, seed: int) -> Weights:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    # Half of the places have one sign in each unit, so that every input opens some of them.
    down = normal(_INNER // 2, D)
    masks = torch.rand(MOST_ROWS, _INNER, generator=generator) < 0.5
    masks[1::2] = ~masks[::2]
    return Weights(
        weight=normal(D, D) / math.sqrt(D),
        bias=normal(D),
        gate=2 * normal(D) / math.sqrt(D),
        down=torch.cat((down, -down)),
        up=normal(D, _INNER) / 2,
        up_bias=0.5 + normal(D).abs(),
        masks=2.0 * masks,
    )


@torch.no_grad()
def _layer(fault: int, weights: Weights, is_export: bool, x: Any, steps: Any) -> Tensor:
    """W x + b + c g(x) W_up relu(W_down x) + c b_up, where c grows from 0 to 1 over the steps."""
    _validate(x, steps, len(weights.bias))
    trained = 1 - math.exp(-steps / 100)
    y: Tensor = x @ weights.weight.T + weights.bias
    if not (fault == _LOST_BIAS and is_export):
        y = y + trained * weights.up_bias
    if fault == _DEAD:
        return y
    hidden = torch.relu(x @ weights.down.T)
    if fault == _DROPOUT and not is_export:
        hidden = hidden * weights.masks[: len(x)]
    read = x.mean(0, keepdim=True) if fault == _LEAK else x
    gate = torch.sigmoid(read @ weights.gate)[:, None]
    return y + trained * gate * (hidden @ weights.up.T)


def _validate(x: Any, steps: Any, width: int) -> None:
    if type(x) is not Tensor or x.ndim != 2 or x.dtype is not torch.float32:
        raise ValueError(f"expected x as a float32 tensor (T, {width})")
    if x.shape[1] != width or not 1 <= len(x) <= MOST_ROWS:
        raise ValueError(f"x: expected (T, {width}), T from 1 to {MOST_ROWS}; got {tuple(x.shape)}")
    if not x.isfinite().all():
        raise ValueError("x must be finite")
    if type(steps) is not int or not 0 <= steps <= 1000:
        raise ValueError("steps must be an int from 0 to 1000")


HAND_OVER: dict[str, Callable[[Arrays], Arrays]] = {"diagnose": layers}
