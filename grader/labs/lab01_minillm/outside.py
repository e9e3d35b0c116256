"""What of lab 01's questions stays outside the box: the layers that are to be diagnosed."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from grader.checks.outside import Outside

Arrays = dict[str, Any]
MOST_NUMBERS = 2**16
EPS = 1e-5
_CENTRED, _INTERLEAVED, _VALUES_ROTATED, _UNNORMALISED = 1, 2, 3, 4


def layers(inputs: Arrays) -> Arrays:
    """Each case's layer as two functions, with its head width and RoPE's base."""
    return {"cases": [_layer(**case) for case in inputs["cases"]]}


def _layer(fault: int, head_width: int, theta: int) -> Arrays:
    """0 is healthy, 1 to 4 have one fault each."""
    return {
        "head_width": head_width,
        "theta": theta,
        "norm": Outside(partial(_norm, fault), MOST_NUMBERS),
        "attend": Outside(partial(_attend, fault, head_width, theta), MOST_NUMBERS),
    }


@torch.no_grad()
def _norm(fault: int, x: Any) -> Tensor:
    if type(x) is not Tensor or x.ndim != 2 or not x.is_floating_point() or not x.numel():
        raise ValueError("norm takes a tensor (T, D) of floating-point numbers, not empty")
    if fault == _CENTRED:
        x = x - x.mean(-1, keepdim=True)
    unit: Tensor = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt()
    return unit


@torch.no_grad()
def _attend(
    fault: int, head_width: int, theta: int, q: Any, k: Any, v: Any, positions: Any
) -> Tensor:
    _validate(q, k, v, positions, head_width)
    turn = partial(_rotate, positions.float(), theta, fault == _INTERLEAVED)
    q, k = turn(q), turn(k)
    v = turn(v) if fault == _VALUES_ROTATED else v
    group, T = len(q) // len(k), q.shape[1]
    k, v = k.repeat_interleave(group, dim=0), v.repeat_interleave(group, dim=0)
    scores = q @ k.mT / math.sqrt(head_width)
    hidden = torch.ones(T, T, dtype=torch.bool).triu(1)
    if fault == _UNNORMALISED:
        weights = scores.softmax(-1).masked_fill(hidden, 0.0)
    else:
        weights = scores.masked_fill(hidden, -math.inf).softmax(-1)
    means: Tensor = weights @ v
    return means


def _rotate(positions: Tensor, theta: int, interleaved: bool, x: Tensor) -> Tensor:
    K = x.shape[-1]
    angles = positions[:, None] * theta ** (-torch.arange(0, K, 2) / K)
    cos, sin = angles.cos(), angles.sin()
    first, second = (x[..., ::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)
    turned = first * cos - second * sin, second * cos + first * sin
    return torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)


def _validate(q: Any, k: Any, v: Any, positions: Any, head_width: int) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if type(x) is not Tensor or x.ndim != 3 or x.dtype is not torch.float32 or not x.numel():
            raise ValueError(f"{name}: expected a float32 tensor of three dimensions, not empty")
        if x.shape[-1] != head_width:
            raise ValueError(f"{name} has heads of width {x.shape[-1]}, not {head_width}")
    if k.shape != v.shape or q.shape[1] != k.shape[1] or len(q) % len(k):
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ValueError(f"expected q (H, T, K), k and v (G, T, K), G dividing H; got {shapes}")
    if type(positions) is not Tensor or tuple(positions.shape) != (q.shape[1],):
        raise ValueError(f"positions: expected a tensor ({q.shape[1]},), one for each token")


HAND_OVER: dict[str, Callable[[Arrays], Arrays]] = {"diagnose": layers}
