"""Streaming sums equal the sums over everything at once."""

import numpy as np
import pytest
import torch

from labkit.compression.errors import hessian_error, relative_error
from labkit.compression.statistics import ColumnNormStats, HessianStats


@pytest.fixture
def inputs(gen: torch.Generator) -> torch.Tensor:
    scale = torch.logspace(-1, 2, 11)
    return torch.randn(53, 11, generator=gen) * scale


@pytest.mark.parametrize("pieces", [(53,), (1, 52), (17, 5, 31)])
def test_hessian_of_pieces_equals_hessian_of_all(
    inputs: torch.Tensor, pieces: tuple[int, ...]
) -> None:
    stats = HessianStats(11)
    for piece in inputs.split(pieces):
        stats.update(piece)
    x = inputs.double().numpy()
    np.testing.assert_allclose(stats.hessian, x.T @ x / 53, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(stats.column_norms, np.linalg.norm(x, axis=0), rtol=1e-5)
    assert stats.num_tokens == 53


def test_column_norms_of_pieces_equal_norms_of_all(inputs: torch.Tensor) -> None:
    stats = ColumnNormStats(11)
    for piece in inputs.split((3, 50)):
        stats.update(piece)
    np.testing.assert_allclose(
        stats.column_norms, np.linalg.norm(inputs.double().numpy(), axis=0), rtol=1e-5
    )


def test_half_precision_inputs_are_summed_in_float32(inputs: torch.Tensor) -> None:
    half = inputs.to(torch.bfloat16)
    stats = HessianStats(11)
    for row in half.split(1):
        stats.update(row)
    expected = half.double().T @ half.double() / 53
    torch.testing.assert_close(stats.hessian.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("make", [HessianStats, ColumnNormStats])
def test_wrong_width_and_no_tokens_are_refused(make: type[HessianStats | ColumnNormStats]) -> None:
    stats = make(11)
    with pytest.raises(ValueError, match="seen no token"):
        _ = stats.column_norms
    with pytest.raises(ValueError, match="13 wide, the layer takes 11"):
        stats.update(torch.ones(2, 13))


def test_hessian_error_is_the_mean_squared_output_error(
    inputs: torch.Tensor, gen: torch.Generator
) -> None:
    weight = torch.randn(7, 11, generator=gen)
    approx = weight + 0.1 * torch.randn(7, 11, generator=gen)
    stats = HessianStats(11)
    stats.update(inputs)
    output_error = inputs.double() @ (weight - approx).double().T
    expected = output_error.square().sum(dim=1).mean()
    assert hessian_error(weight, approx, stats.hessian) == pytest.approx(float(expected), rel=1e-5)
    assert hessian_error(weight, weight, stats.hessian) == 0.0


def test_hessian_error_names_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\(7, 11\).*\(7, 12\)"):
        hessian_error(torch.ones(7, 11), torch.ones(7, 12), torch.eye(11))


def test_relative_error() -> None:
    weight = torch.tensor([[3.0, 4.0]])
    assert relative_error(weight, torch.zeros(1, 2)) == 1.0
    assert relative_error(torch.zeros(1, 2), torch.zeros(1, 2)) == 0.0
