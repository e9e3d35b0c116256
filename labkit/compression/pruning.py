"""Which weights to set to zero: by magnitude, or by Wanda's magnitude times input norm."""

import re
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class PruningConfig:
    """How many weights go, and where: a share of each row, or a pattern n:m along each row.

    Args:
        sparsity: share of every row that is set to zero, in [0, 1); floor(sparsity * I) weights.
        pattern: (n, m): of every m consecutive weights of a row exactly n are kept.

    Raises:
        ValueError: both or neither are given, or one is out of range.
    """

    sparsity: float | None = None
    pattern: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if (self.sparsity is None) == (self.pattern is None):
            raise ValueError(
                f"give either sparsity or pattern, got sparsity={self.sparsity} "
                f"and pattern={self.pattern}"
            )
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity={self.sparsity} must lie in [0, 1)")
        if self.pattern is not None and not 0 < self.pattern[0] < self.pattern[1]:
            n, m = self.pattern
            raise ValueError(f"pattern {n}:{m} must keep 0 < n < m weights of every m, as in 2:4")

    @classmethod
    def parse(cls, text: str) -> "PruningConfig":
        """Reads "0.5" as a sparsity and "2:4" as a pattern."""
        if match := re.fullmatch(r"(\d+):(\d+)", text.strip()):
            return cls(pattern=(int(match[1]), int(match[2])))
        try:
            return cls(sparsity=float(text))
        except ValueError as error:
            raise ValueError(
                f"{text!r} is neither a sparsity in [0, 1) nor an n:m pattern"
            ) from error


def magnitude_mask(weight: Float[Tensor, "O I"], config: PruningConfig) -> Bool[Tensor, "O I"]:
    """Keeps the weights of largest |W_ij|, compared within each row.

    Differs: magnitude pruning usually compares within a layer; per row is the fair rival of Wanda.

    Args:
        weight: weight of a linear layer, one row per output.
        config: how many weights to remove.

    Returns:
        True where a weight stays. Of equal weights the later one stays.

    Raises:
        ValueError: the pattern's m does not divide the row.
    """
    return _keep_largest(weight.abs(), config)


def wanda_mask(
    weight: Float[Tensor, "O I"], column_norms: Float[Tensor, "J"], config: PruningConfig
) -> Bool[Tensor, "O I"]:
    """Keeps the weights of largest |W_ij| * ||X_j||_2, compared within each row.

    Paper: 2306.11695v3, equation 1 and algorithm 1.

    Args:
        weight: weight of a linear layer, one row per output.
        column_norms: norm of each input feature over the calibration tokens.
        config: how many weights to remove.

    Returns:
        True where a weight stays. Of equal scores the later one stays.

    Raises:
        ValueError: the norms do not fit the weight, or the pattern's m does not divide the row.
    """
    if column_norms.shape[0] != weight.shape[1]:
        raise ValueError(f"{column_norms.shape[0]} norms for {weight.shape[1]} input features")
    return _keep_largest(weight.abs().float() * column_norms.to(weight.device).float(), config)


def prune(weight: Float[Tensor, "O I"], mask: Bool[Tensor, "O I"]) -> Float[Tensor, "O I"]:
    """The weight with exact zeros where the mask is False."""
    return torch.where(mask, weight, torch.zeros_like(weight))


def measured_sparsity(weight: Float[Tensor, "O I"]) -> float:
    """Share of weights that are exactly zero."""
    return float((weight == 0).double().mean())


def _keep_largest(scores: Float[Tensor, "O I"], config: PruningConfig) -> Bool[Tensor, "O I"]:
    rows, width = scores.shape
    if config.pattern is None:
        assert config.sparsity is not None
        # 0.29 * 100 is 28.999999999999996: the allowance keeps decimal sparsities exact.
        return _drop_smallest(scores, int(config.sparsity * width + 1e-9))
    n, m = config.pattern
    if width % m:
        raise ValueError(f"pattern {n}:{m} needs rows of a multiple of {m} weights, got {width}")
    return _drop_smallest(scores.reshape(-1, m), m - n).reshape(rows, width)


def _drop_smallest(scores: Float[Tensor, "P Q"], count: int) -> Bool[Tensor, "P Q"]:
    """False at the `count` smallest scores of every row: by rank, so that ties cannot add up."""
    smallest = scores.argsort(dim=1, stable=True)[:, :count]
    keep = torch.ones_like(scores, dtype=torch.bool)
    return keep.scatter_(1, smallest, False)
