"""What of lab 04's questions stays outside the box: the layers that are to be diagnosed."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from grader.checks.outside import Outside

Arrays = dict[str, Any]
MOST_NUMBERS = 2**16


def layers(inputs: Arrays) -> Arrays:
    """Each case's layer as a function, with its block size."""
    return {"cases": [_case(**case) for case in inputs["cases"]]}


def _case(fault: int, block_size: int) -> Arrays:
    """A QLoRA layer; 0 is healthy, 1 to 4 have one fault each."""
    kept = partial(_layer, fault, block_size)
    return {"block_size": block_size, "layer": Outside(kept, MOST_NUMBERS)}


@torch.no_grad()
def _layer(fault: int, block_size: int, *arguments: Any) -> tuple[Tensor, Tensor]:
    """Outputs, and the gradient of x, from weight, A, B, x and the gradient of the outputs."""
    _validate(arguments)
    weight, A, B, x, y_grad = (tensor.float() for tensor in arguments)
    if fault == 1:
        merged = _stored(weight + B @ A, block_size, swapped=False)
        return x @ merged.T, y_grad @ merged
    base = _stored(weight, block_size, swapped=fault == 2)
    compute = torch.bfloat16 if fault == 3 else torch.float32
    low_x, low_base, low_grad = (tensor.to(compute) for tensor in (x, base, y_grad))
    y = (low_x @ low_base.T).float() + (x @ A.T) @ B.T
    x_grad = (y_grad @ B) @ A
    return y, x_grad if fault == 4 else x_grad + (low_grad @ low_base).float()


def _stored(weight: Tensor, block_size: int, *, swapped: bool) -> Tensor:
    """The weight after NF4."""
    from labkit.quant.nf4 import NF4_CODES, quantize_codebook

    held = quantize_codebook(weight, NF4_CODES, block_size)
    if swapped:
        held = replace(held, packed=(held.packed << 4) | (held.packed >> 4))
    return held.dequantize()


def _validate(arguments: tuple[Any, ...]) -> None:
    if len(arguments) != 5 or any(type(a) is not Tensor or a.ndim != 2 for a in arguments):
        raise ValueError("expected weight, A, B, x and the gradient of y, tensors of two axes")
    weight, A, B, x, y_grad = arguments
    (O, I), R, T = weight.shape, len(A), len(x)  # noqa: E741
    wanted = {"A": (R, I), "B": (O, R), "x": (T, I), "the gradient of y": (T, O)}
    for (name, shape), tensor in zip(wanted.items(), (A, B, x, y_grad), strict=True):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
    if O * I % 2 or not weight.numel():
        raise ValueError(f"a weight of shape {(O, I)} does not fill whole bytes")
    if not all(tensor.is_floating_point() and tensor.isfinite().all() for tensor in arguments):
        raise ValueError("expected finite floats")


HAND_OVER: dict[str, Callable[[Arrays], Arrays]] = {"diagnose": layers}
