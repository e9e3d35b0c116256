"""What calibration keeps of a layer's inputs: sums that stream, never the inputs themselves."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Stats(Protocol):
    """Anything that can be built from a layer's input width and fed its inputs in pieces."""

    def update(self, x: Float[Tensor, "N I"]) -> None:
        """Adds the inputs of N more tokens."""


class HessianStats:
    """Second moment of a layer's inputs, H = (1/N) sum_n x_n x_n^T, in I x I memory for any N.

    Up to a factor this is the Hessian of the layer's squared output error, so tr(dW H dW^T) is the
    error of one token's output, summed over outputs and averaged over calibration tokens.

    Paper: 2210.17323v2, section 3.2 (H = 2 X X^T).
    Differs: the mean instead of twice the sum; GPTQ's result depends on neither.
    """

    def __init__(self, in_features: int) -> None:
        self.num_tokens = 0
        self._sum = torch.zeros(in_features, in_features)

    def update(self, x: Float[Tensor, "N I"]) -> None:
        """Adds the inputs of N more tokens, accumulated in float32 on the inputs' device."""
        x = _checked(x, self._sum.shape[0]).float()
        if self._sum.device != x.device:
            self._sum = self._sum.to(x.device)
        self._sum.addmm_(x.T, x)
        self.num_tokens += x.shape[0]

    @property
    def hessian(self) -> Float[Tensor, "I I"]:
        """H; a new tensor at every call."""
        return self._sum / _seen(self.num_tokens)

    @property
    def column_norms(self) -> Float[Tensor, "I"]:
        """||X_j||_2 of every input feature j over all tokens: what Wanda needs."""
        _seen(self.num_tokens)
        return self._sum.diagonal().sqrt()


class ColumnNormStats:
    """L2 norm of every input feature over all tokens, ||X_j||_2, in I memory.

    Paper: 2306.11695v3, equation 1.
    """

    def __init__(self, in_features: int) -> None:
        self.num_tokens = 0
        self._sum_squares = torch.zeros(in_features)

    def update(self, x: Float[Tensor, "N I"]) -> None:
        """Adds the inputs of N more tokens, accumulated in float32 on the inputs' device."""
        x = _checked(x, self._sum_squares.shape[0]).float()
        if self._sum_squares.device != x.device:
            self._sum_squares = self._sum_squares.to(x.device)
        self._sum_squares += x.square().sum(dim=0)
        self.num_tokens += x.shape[0]

    @property
    def column_norms(self) -> Float[Tensor, "I"]:
        _seen(self.num_tokens)
        return self._sum_squares.sqrt()


def _checked(x: Float[Tensor, "N I"], in_features: int) -> Float[Tensor, "N I"]:
    if x.shape[1] != in_features:
        raise ValueError(f"inputs are {x.shape[1]} wide, the layer takes {in_features}")
    return x.detach()


def _seen(num_tokens: int) -> int:
    if num_tokens == 0:
        raise ValueError("these statistics have seen no token; call update() first")
    return num_tokens
