"""What lab 01's exercises are given: stand-ins for parts of a block. Numpy and torch only."""

from typing import Any

import torch
from torch import Tensor

from grader.checks.explain import ContractError

Arrays = dict[str, Any]


class Parts:
    """A norm, a rotation and an attention that are none, but are as particular about shapes.

    With them a block is judged by its wiring alone, whatever the other exercises' answers are.
    """

    def __init__(self, inputs: Arrays) -> None:
        self._stream = tuple(inputs["x"].shape)
        (B, T, _), (self._H, self._G) = self._stream, inputs["heads"]
        self._shape = B, T, inputs["head_width"]

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """Something uneven that depends on every number of a token, times the weight."""
        _require("norm", "x", x, self._stream)
        _require("norm", "weight", weight, self._stream[-1:])
        return (x + x.mean(-1, keepdim=True)).tanh() * weight

    def rotate(self, x: Tensor) -> Tensor:
        """Something that depends on a token's place."""
        heads = x.shape[1] if x.ndim == 4 else 0
        if heads not in (self._H, self._G):
            heads = self._H
        _require("rotate", "its argument", x, self._of(heads))
        return x.roll(1, dims=-1) * torch.linspace(0.5, 1.5, x.shape[2])[:, None]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Something that tells q, k and v apart."""
        _require("attend", "q", q, self._of(self._H))
        _require("attend", "k", k, self._of(self._G))
        _require("attend", "v", v, self._of(self._G))
        shared = (k.cumsum(2) * v).mean(1, keepdim=True)
        return shared + q * v.flip(1).mean(1, keepdim=True).sin()

    def _of(self, heads: int) -> tuple[int, ...]:
        B, T, K = self._shape
        return B, heads, T, K


def _require(function: str, name: str, value: Any, shape: tuple[int, ...]) -> None:
    got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if got != shape:
        raise ContractError(f"block calls {function}: expected {name} of shape {shape}, got {got}")
