"""GPTQ against a brute-force optimal brain quantizer, and against what it must reduce to."""

import numpy as np
import pytest
import torch

from labkit.compression.errors import hessian_error
from labkit.compression.gptq import GptqConfig, gptq, inverse_factor
from labkit.compression.rtn import rtn
from labkit.quant.affine import AffineConfig, fit_grid

ROW4 = AffineConfig(bits=4)
ROW3 = AffineConfig(bits=3, symmetric=True)
GROUP4 = AffineConfig(bits=4, granularity="group", group_size=6)
FORMATS = pytest.mark.parametrize("affine", [ROW4, ROW3, GROUP4], ids=["row4", "row3", "group6"])


@pytest.fixture
def layer(gen: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight (O=7, I=30) and the second moment of correlated inputs of very different sizes."""
    mixing = torch.randn(30, 30, generator=gen) / 30**0.5 + torch.eye(30)
    x = torch.randn(211, 30, generator=gen) @ mixing * torch.logspace(-1, 1, 30)
    return torch.randn(7, 30, generator=gen), x.T @ x / 211


def brute_force_obq(weight: torch.Tensor, hessian: torch.Tensor, config: GptqConfig) -> np.ndarray:
    """Fixes column after column and re-solves the whole least-squares problem for the free ones.

    With the fixed columns F off by d_F, the free ones R are best at w_R - H_RR^-1 H_RF d_F.
    All in float64; returns the dequantized weight.
    """
    w = weight.double().numpy()
    h = hessian.double().numpy().copy()
    columns = w.shape[1]
    diagonal = np.diag(h).copy()
    order = list(np.argsort(-diagonal, kind="stable")) if config.act_order else list(range(columns))
    h += config.damping * diagonal.mean() * np.eye(columns)
    group_size = config.affine.group_size or columns
    bottom, top = config.affine.code_range
    result = np.zeros_like(w)
    grids: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for position, column in enumerate(order):
        fixed, free = order[:position], order[position:]
        change = result[:, fixed] - w[:, fixed]
        now = w.copy()
        now[:, free] -= change @ h[np.ix_(fixed, free)] @ np.linalg.inv(h[np.ix_(free, free)])
        group = (position if config.refits else column) // group_size
        if group not in grids:
            members = order[position : position + group_size]
            source = now[:, members]
            if config.affine.granularity == "channel":
                source = w
            elif not config.refits:
                source = w[:, group * group_size : (group + 1) * group_size]
            grids[group] = brute_force_grid(source, config.affine)
        scale, zero = grids[group]
        codes = np.clip(np.round(now[:, column] / scale) + zero, bottom, top)
        result[:, column] = (codes - zero) * scale
    return result


def brute_force_grid(w: np.ndarray, affine: AffineConfig) -> tuple[np.ndarray, np.ndarray]:
    top = affine.code_range[1]
    if affine.symmetric:
        return np.abs(w).max(1) / top, np.zeros(len(w))
    low, high = np.minimum(w.min(1), 0), np.maximum(w.max(1), 0)
    scale = (high - low) / top
    return scale, np.round(-low / scale)


@FORMATS
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("static_groups", [False, True])
@pytest.mark.parametrize("block_size", [3, 6, 128])
def test_equals_brute_force_obq(
    layer: tuple[torch.Tensor, torch.Tensor],
    affine: AffineConfig,
    act_order: bool,
    static_groups: bool,
    block_size: int,
) -> None:
    weight, hessian = layer
    config = GptqConfig(
        affine=affine,
        act_order=act_order,
        static_groups=static_groups,
        block_size=block_size if affine is not GROUP4 or block_size != 128 else 60,
    )
    expected = brute_force_obq(weight, hessian, config)
    got = gptq(weight.double(), hessian, config).dequantize()
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)
    in_float32 = gptq(weight, hessian, config).dequantize()
    np.testing.assert_allclose(in_float32, expected, rtol=1e-4, atol=1e-5)


def error_ratio(
    weight: torch.Tensor, hessian: torch.Tensor, affine: AffineConfig, act_order: bool
) -> float:
    """GPTQ's Hessian-weighted error as a share of round-to-nearest's."""
    result = gptq(weight, hessian, GptqConfig(affine=affine, act_order=act_order, block_size=6))
    nearest = rtn(weight, affine).dequantize()
    return hessian_error(weight, result.dequantize(), hessian) / hessian_error(
        weight, nearest, hessian
    )


@FORMATS
@pytest.mark.parametrize("act_order", [False, True])
def test_error_is_below_round_to_nearest(affine: AffineConfig, act_order: bool) -> None:
    ratios = []
    for seed in range(4):
        gen = torch.Generator().manual_seed(seed)
        mixing = torch.randn(30, 30, generator=gen) / 30**0.5 + torch.eye(30)
        x = torch.randn(211, 30, generator=gen) @ mixing
        weight = torch.randn(7, 30, generator=gen)
        ratios.append(error_ratio(weight, x.T @ x / 211, affine, act_order))
    assert max(ratios) < 1
    assert np.mean(ratios) <= 0.8


def test_act_order_saves_what_the_plain_order_meets_last(
    layer: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """Inputs that grow along the row: nobody is left to repair the most sensitive columns."""
    assert error_ratio(*layer, ROW4, act_order=False) > 0.9
    assert error_ratio(*layer, ROW4, act_order=True) < 0.7


@FORMATS
@pytest.mark.parametrize("act_order", [False, True])
def test_uncorrelated_inputs_leave_nothing_to_repair(
    gen: torch.Generator, affine: AffineConfig, act_order: bool
) -> None:
    weight = torch.randn(7, 30, generator=gen)
    hessian = torch.diag(torch.rand(30, generator=gen) + 0.1)
    config = GptqConfig(affine=affine, act_order=act_order, static_groups=True)
    result = gptq(weight, hessian, config)
    assert result.order is None
    assert torch.equal(result.quantized.codes, rtn(weight, affine).codes)
    assert torch.equal(result.dequantize(), rtn(weight, affine).dequantize())


def test_act_order_is_undone(layer: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Shuffling the input features beforehand shuffles the result's columns, and nothing else."""
    weight, hessian = layer
    shuffle = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    for affine in (ROW4, GROUP4):
        config = GptqConfig(affine=affine, act_order=True, block_size=6)
        plain = gptq(weight, hessian, config).dequantize()
        shuffled = gptq(weight[:, shuffle], hessian[shuffle][:, shuffle], config).dequantize()
        torch.testing.assert_close(shuffled, plain[:, shuffle], rtol=1e-5, atol=1e-6)


def test_order_maps_the_walk_to_the_weight(layer: tuple[torch.Tensor, torch.Tensor]) -> None:
    weight, hessian = layer
    result = gptq(weight, hessian, GptqConfig(affine=GROUP4, act_order=True, block_size=6))
    assert result.order is not None
    assert torch.equal(result.order, hessian.diagonal().argsort(descending=True))
    walked = result.quantized.dequantize()
    for position, column in enumerate(result.order.tolist()):
        assert torch.equal(result.dequantize()[:, column], walked[:, position])


def test_dead_columns_are_rounded_to_nearest_and_disturb_nothing(
    layer: tuple[torch.Tensor, torch.Tensor],
) -> None:
    weight, hessian = layer
    dead = torch.tensor([0, 11, 29])
    alive = torch.tensor([j for j in range(30) if j not in dead])
    hessian[dead] = 0
    hessian[:, dead] = 0
    config = GptqConfig(affine=ROW3, act_order=False)
    got = gptq(weight, hessian, config).quantized
    assert torch.equal(got.codes[:, dead], rtn(weight, ROW3).codes[:, dead])
    weight[:, dead] = 0
    torch.testing.assert_close(fit_grid(weight, ROW3)[0], got.scale)  # same grid with or without
    alone = gptq(weight[:, alive], hessian[alive][:, alive], config)
    assert torch.equal(got.codes[:, alive], alone.quantized.codes)
    never_seen = gptq(weight, torch.zeros(30, 30), config)
    assert torch.equal(never_seen.quantized.codes, rtn(weight, ROW3).codes)


def test_scale_of_the_hessian_does_not_matter(layer: tuple[torch.Tensor, torch.Tensor]) -> None:
    weight, hessian = layer
    hessian[3] = 0
    hessian[:, 3] = 0
    config = GptqConfig(affine=ROW4)
    got = gptq(weight, 1e4 * hessian, config)
    assert torch.equal(got.quantized.codes, gptq(weight, hessian, config).quantized.codes)


def test_inverse_factor(layer: tuple[torch.Tensor, torch.Tensor]) -> None:
    _, hessian = layer
    damped = hessian.double() + 0.05 * hessian.double().diagonal().mean() * torch.eye(30).double()
    factor = inverse_factor(hessian, 0.05)
    torch.testing.assert_close(factor, factor.triu())
    torch.testing.assert_close(factor.T @ factor, torch.linalg.inv(damped), rtol=1e-8, atol=1e-10)


def test_inputs_are_left_alone(layer: tuple[torch.Tensor, torch.Tensor]) -> None:
    weight, hessian = layer
    hessian[5] = 0
    hessian[:, 5] = 0
    before = weight.clone(), hessian.clone()
    gptq(weight, hessian, GptqConfig(affine=GROUP4, act_order=False, block_size=12))
    assert torch.equal(weight, before[0])
    assert torch.equal(hessian, before[1])


def test_bad_input_is_refused_with_its_values(layer: tuple[torch.Tensor, torch.Tensor]) -> None:
    weight, hessian = layer
    affine = AffineConfig(granularity="group", group_size=8)
    with pytest.raises(ValueError, match="group_size=8 does not divide the weight's 30 columns"):
        gptq(weight, hessian, GptqConfig(affine=affine))
    with pytest.raises(ValueError, match=r"\(29, 29\) Hessian for 30 input features"):
        gptq(weight, hessian[1:, 1:], GptqConfig(affine=ROW4))
    with pytest.raises(ValueError, match="not positive definite with damping=0"):
        gptq(weight, -hessian, GptqConfig(affine=ROW4, damping=0.0))
    with pytest.raises(ValueError, match=r"damping=-0.1"):
        GptqConfig(affine=ROW4, damping=-0.1)
    with pytest.raises(ValueError, match="block_size=0"):
        GptqConfig(affine=ROW4, block_size=0)
    with pytest.raises(ValueError, match="block_size=10 and group_size=6"):
        GptqConfig(affine=GROUP4, block_size=10)
