"""Affine integer formats: w ~ scale * (q - zero_point), rounded to nearest."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class AffineConfig:
    """A grid of 2^bits evenly spaced values, and what shares one scale.

    Args:
        bits: 2 to 8.
        symmetric: codes -(2^(bits-1) - 1) .. 2^(bits-1) - 1 and no zero point (one of the 2^bits
            codes is given up, so that the grid is its own mirror image); else codes
            0 .. 2^bits - 1 and an integer zero point, so that zero stays exactly zero.
        granularity: what shares a scale: the "tensor", a "channel" (an output row) or a "group" of
            `group_size` neighbours in a row.
        group_size: number of weights in a group; must divide the row. Only with "group".
    """

    bits: int = 4
    symmetric: bool = False
    granularity: str = "channel"
    group_size: int | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"bits={self.bits} must lie in 2..8")
        if self.granularity not in ("tensor", "channel", "group"):
            raise ValueError(
                f"granularity={self.granularity!r} must be 'tensor', 'channel' or 'group'"
            )
        if (self.granularity == "group") != (self.group_size is not None):
            raise ValueError(
                f"granularity={self.granularity!r} with group_size={self.group_size}: "
                "give a group_size with 'group' and only there"
            )
        if self.group_size is not None and self.group_size < 1:
            raise ValueError(f"group_size={self.group_size} must be at least 1")

    @property
    def code_range(self) -> tuple[int, int]:
        """Smallest and largest code."""
        if self.symmetric:
            return 1 - 2 ** (self.bits - 1), 2 ** (self.bits - 1) - 1
        return 0, 2**self.bits - 1

    def grid_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Shape of the scales of a weight (O, I): (1, 1), (O, 1) or (O, I / group_size).

        Raises:
            ValueError: the group size does not divide I.
        """
        rows, columns = shape
        if self.granularity == "tensor":
            return 1, 1
        if self.granularity == "channel" or self.group_size is None:
            return rows, 1
        if columns % self.group_size:
            raise ValueError(
                f"group_size={self.group_size} does not divide the weight's {columns} columns; "
                f"divisors are {', '.join(map(str, _divisors(columns)))}"
            )
        return rows, columns // self.group_size


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedTensor:
    """A weight as integer codes and the grids they index.

    Args:
        codes: (O, I); int8 if symmetric, else uint8.
        scale: width of a step, (1, 1), (O, 1) or (O, I / group_size).
        zero_point: the code that means zero, shaped like `scale`, uint8; None if symmetric.
        config: the format.
        shape: (O, I).
    """

    codes: Integer[Tensor, "O I"]
    scale: Float[Tensor, "rows groups"]
    zero_point: Integer[Tensor, "rows groups"] | None
    config: AffineConfig
    shape: tuple[int, int]

    def dequantize(self) -> Float[Tensor, "O I"]:
        """scale * (q - zero_point), in the scale's dtype."""
        steps = _grouped(self.codes, self.scale).to(self.scale.dtype)
        if self.zero_point is not None:
            steps = steps - self.zero_point[:, :, None].to(self.scale.dtype)
        return (steps * self.scale[:, :, None]).view(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes when packed: bits/8 per weight, 4 or 8 per scale, 1 per zero point."""
        zeros = 0 if self.zero_point is None else self.zero_point.nbytes
        return -(-self.codes.numel() * self.config.bits // 8) + self.scale.nbytes + zeros

    @property
    def bits_per_weight(self) -> float:
        """Bits for one weight, its share of scales and zero points included."""
        return 8 * self.nbytes / self.codes.numel()


def quantize(weight: Float[Tensor, "O I"], config: AffineConfig) -> QuantizedTensor:
    """q = clamp(round(w / scale) + zero_point), nearest grid point to every weight.

    Asymmetric grids reach from min(w, 0) to max(w, 0), symmetric ones from -max|w| to max|w|.

    Args:
        weight: (O, I), output rows first, as in `nn.Linear`.
        config: the format.

    Returns:
        Codes and grids; scales are float32 (float64 for a float64 weight).

    Raises:
        ValueError: the group size does not divide I, or a weight is not finite.
    """
    O, I = weight.shape  # noqa: E741
    scale, zero_point = fit_grid(weight, config)
    codes = round_to_grid(weight, scale, zero_point, config)
    return QuantizedTensor(codes, scale, zero_point, config, (O, I))


def fake_quantize(weight: Float[Tensor, "O I"], config: AffineConfig) -> Float[Tensor, "O I"]:
    """The weight after a trip through the format, in its own dtype. No gradient passes."""
    return quantize(weight, config).dequantize().to(weight.dtype)


@torch.no_grad()
def fit_grid(
    weight: Float[Tensor, "O I"], config: AffineConfig
) -> tuple[Float[Tensor, "rows groups"], Integer[Tensor, "rows groups"] | None]:
    """Scales and zero points that just cover the weights; a group of zeros gets scale 1.

    Raises:
        ValueError: as `quantize`.
    """
    if not weight.isfinite().all():
        bad = weight.numel() - int(weight.isfinite().sum())
        raise ValueError(f"{bad} of {weight.numel()} weights are not finite; repair them first")
    wide = torch.promote_types(weight.dtype, torch.float32)
    groups = _grouped(weight, torch.empty(config.grid_shape((weight.shape[0], weight.shape[1]))))
    low = groups.amin(-1).to(wide).clamp(max=0)
    high = groups.amax(-1).to(wide).clamp(min=0)
    _, top = config.code_range
    scale = (torch.maximum(-low, high) if config.symmetric else high - low) / top
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    if config.symmetric:
        return scale, None
    return scale, (-low / scale).round().clamp(0, top).to(torch.uint8)


@torch.no_grad()
def round_to_grid(
    weight: Float[Tensor, "O I"],
    scale: Float[Tensor, "rows groups"],
    zero_point: Integer[Tensor, "rows groups"] | None,
    config: AffineConfig,
) -> Integer[Tensor, "O I"]:
    """Code of the grid point nearest to each weight; halves go to the even code."""
    low, high = config.code_range
    steps = _grouped(weight, scale).to(scale.dtype).div(scale[:, :, None]).round_()
    if zero_point is not None:
        steps.add_(zero_point[:, :, None])
    dtype = torch.int8 if config.symmetric else torch.uint8
    return steps.clamp_(low, high).to(dtype).view(weight.shape)


def _grouped(values: Tensor, scale: Tensor) -> Tensor:
    """(O, I) -> (rows, groups, weights that share a scale), as a view where possible."""
    rows, groups = scale.shape
    return values.reshape(rows, groups, -1)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
