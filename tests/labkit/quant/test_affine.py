"""Affine formats against a brute-force search of every grid in float64."""

import dataclasses
import itertools

import pytest
import torch

from labkit.quant import affine
from labkit.quant.affine import AffineConfig

ROWS, COLUMNS = 7, 30
GROUPS = {"tensor": None, "channel": None, "group": 6}


def weights(gen: torch.Generator, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rows of very different size, one all positive, one all zero: where zero points matter."""
    weight = torch.randn(ROWS, COLUMNS, generator=gen, dtype=torch.float64)
    weight *= torch.logspace(-3, 1, ROWS, dtype=torch.float64)[:, None]
    weight[2] = weight[2].abs() + 0.5
    weight[4] = 0
    return weight.to(dtype)


def members(granularity: str, row: int, column: int) -> tuple[slice, slice]:
    if granularity == "tensor":
        return slice(None), slice(None)
    if granularity == "channel":
        return slice(row, row + 1), slice(None)
    start = column - column % 6
    return slice(row, row + 1), slice(start, start + 6)


def brute_force(weight: torch.Tensor, config: AffineConfig) -> torch.Tensor:
    """Each weight's distance to the nearest of all grid points, one weight at a time."""
    top = 2 ** (config.bits - 1) - 1 if config.symmetric else 2**config.bits - 1
    best = torch.empty_like(weight)
    for row, column in itertools.product(range(ROWS), range(COLUMNS)):
        group = weight[members(config.granularity, row, column)]
        low, high = min(group.min().item(), 0.0), max(group.max().item(), 0.0)
        if config.symmetric:
            step, grid = max(-low, high) / top, torch.arange(-top, top + 1, dtype=torch.float64)
        else:
            step = (high - low) / top
            zero = round(-low / step) if step else 0
            grid = torch.arange(top + 1, dtype=torch.float64) - zero
        best[row, column] = (weight[row, column] - step * grid).abs().min()
    return best


@pytest.mark.parametrize("granularity", GROUPS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_every_weight_goes_to_the_nearest_grid_point(bits, symmetric, granularity, gen) -> None:
    config = AffineConfig(
        bits=bits, symmetric=symmetric, granularity=granularity, group_size=GROUPS[granularity]
    )
    weight = weights(gen, torch.float64)
    quantized = affine.quantize(weight, config)
    error = (quantized.dequantize() - weight).abs()
    torch.testing.assert_close(error, brute_force(weight, config), rtol=1e-9, atol=1e-12)
    low, high = config.code_range
    assert quantized.codes.min() >= low
    assert quantized.codes.max() <= high
    assert (
        quantized.scale.shape == {"tensor": (1, 1), "channel": (7, 1), "group": (7, 5)}[granularity]
    )


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_dtypes_agree_with_float64(dtype, symmetric, gen) -> None:
    config = AffineConfig(bits=4, symmetric=symmetric, granularity="group", group_size=6)
    weight = weights(gen, dtype)
    exact = affine.quantize(weight.double(), config)
    quantized = affine.quantize(weight, config)
    assert quantized.scale.dtype == torch.float32
    step = exact.scale.repeat_interleave(6, dim=1)
    assert ((quantized.dequantize() - weight).abs() <= step * (0.5 + 1e-5)).all()
    torch.testing.assert_close(quantized.scale, exact.scale.float(), rtol=1e-6, atol=0)
    assert affine.fake_quantize(weight, config).dtype == dtype


@pytest.mark.parametrize("symmetric", [True, False])
def test_zero_stays_zero_and_quantizing_twice_changes_nothing(symmetric, gen) -> None:
    config = AffineConfig(bits=3, symmetric=symmetric, granularity="channel")
    weight = weights(gen)
    weight[:, 3] = 0
    once = affine.fake_quantize(weight, config)
    assert (once[:, 3] == 0).all()
    assert (once[4] == 0).all()
    torch.testing.assert_close(affine.fake_quantize(once, config), once, rtol=1e-6, atol=0)


def test_symmetric_grid_mirrors_the_weights(gen) -> None:
    config = AffineConfig(bits=4, symmetric=True, granularity="tensor")
    weight = weights(gen)
    assert torch.equal(affine.fake_quantize(-weight, config), -affine.fake_quantize(weight, config))


def test_finer_grids_and_more_bits_err_less(gen) -> None:
    weight = weights(gen)

    def rms(bits: int, granularity: str) -> float:
        size = GROUPS[granularity]
        config = AffineConfig(bits=bits, granularity=granularity, group_size=size)
        return (affine.fake_quantize(weight, config) - weight).square().mean().sqrt().item()

    assert rms(4, "tensor") > rms(4, "channel") > rms(4, "group")
    assert rms(2, "group") > rms(3, "group") > rms(5, "group") > rms(8, "group")


def test_input_is_left_alone_even_when_not_contiguous(gen) -> None:
    config = AffineConfig(bits=4, granularity="group", group_size=6)
    weight = weights(gen).t().contiguous().t()
    before = weight.clone()
    assert torch.equal(
        affine.quantize(weight, config).codes, affine.quantize(before.contiguous(), config).codes
    )
    assert torch.equal(weight, before)


@pytest.mark.parametrize(("symmetric", "zeros"), [(True, 0), (False, 1)])
def test_bytes_follow_the_formula(symmetric, zeros, gen) -> None:
    config = AffineConfig(bits=3, symmetric=symmetric, granularity="group", group_size=6)
    quantized = affine.quantize(weights(gen), config)
    groups = ROWS * COLUMNS // 6
    assert quantized.nbytes == -(-ROWS * COLUMNS * 3 // 8) + groups * (4 + zeros)
    assert quantized.bits_per_weight == pytest.approx(3 + 8 * (4 + zeros) / 6, abs=0.03)


def test_group_size_that_does_not_divide_names_the_divisors(gen) -> None:
    config = AffineConfig(bits=4, granularity="group", group_size=7)
    with pytest.raises(ValueError, match=r"group_size=7 .* 30 columns; divisors are 1, 2, 3, 5, 6"):
        affine.quantize(weights(gen), config)


def test_weights_that_are_not_finite_are_refused(gen) -> None:
    weight = weights(gen)
    weight[1, 2:4] = torch.tensor([float("inf"), float("nan")])
    with pytest.raises(ValueError, match="2 of 210 weights are not finite"):
        affine.quantize(weight, AffineConfig(granularity="tensor"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 1}, r"bits=1 must lie in 2\.\.8"),
        ({"bits": 9}, "bits=9"),
        ({"granularity": "row"}, "granularity='row' must be"),
        ({"granularity": "channel"}, "granularity='channel' with group_size=6"),
        ({"group_size": None}, "granularity='group' with group_size=None"),
        ({"group_size": 0}, "group_size=0 must be at least 1"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, object], message: str) -> None:
    config = AffineConfig(bits=4, granularity="group", group_size=6)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **changes)
