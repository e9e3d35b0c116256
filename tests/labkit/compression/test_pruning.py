"""Pruning masks against brute force; counts are exact even where scores tie."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labkit.compression.pruning import (
    PruningConfig,
    magnitude_mask,
    measured_sparsity,
    prune,
    wanda_mask,
)


def brute_force_keep(scores: np.ndarray, sparsity: float) -> np.ndarray:
    """Row by row: sort the scores, drop the smallest floor(sparsity * I)."""
    keep = np.ones(scores.shape, dtype=bool)
    for row, kept in zip(scores, keep, strict=True):
        for index in sorted(range(len(row)), key=lambda j, row=row: row[j])[
            : math.floor(round(sparsity * len(row), 6))
        ]:
            kept[index] = False
    return keep


@pytest.mark.parametrize("sparsity", [0.0, 0.29, 0.5, 0.97])
def test_masks_equal_brute_force(rng: np.random.Generator, sparsity: float) -> None:
    weight = rng.standard_normal((7, 100)).astype(np.float32)
    norms = rng.uniform(0.1, 30, 100).astype(np.float32)
    config = PruningConfig(sparsity=sparsity)
    np.testing.assert_array_equal(
        magnitude_mask(torch.tensor(weight), config), brute_force_keep(np.abs(weight), sparsity)
    )
    np.testing.assert_array_equal(
        wanda_mask(torch.tensor(weight), torch.tensor(norms), config),
        brute_force_keep(np.abs(weight) * norms, sparsity),
    )


@pytest.mark.parametrize("sparsity", [0.0, 0.29, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["random", "all equal", "few levels"])
def test_every_row_loses_exactly_the_stated_count(
    gen: torch.Generator, sparsity: float, kind: str
) -> None:
    weight = {
        "random": torch.randn(5, 577, generator=gen),
        "all equal": torch.ones(5, 577),
        "few levels": torch.randint(1, 4, (5, 577), generator=gen).float(),
    }[kind]
    mask = magnitude_mask(weight, PruningConfig(sparsity=sparsity))
    removed = (~mask).sum(dim=1)
    assert removed.unique().numel() == 1
    assert abs(float(removed[0]) - sparsity * 577) < 1
    assert measured_sparsity(prune(weight, mask)) == pytest.approx(float(removed[0]) / 577)


@given(
    m=st.integers(2, 9),
    n_share=st.floats(0.01, 0.99),
    groups=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_n_of_every_m_are_kept_everywhere(m: int, n_share: float, groups: int, seed: int) -> None:
    n = min(max(1, int(n_share * m)), m - 1)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-2, 3, (3, groups * m), generator=generator).float()  # ties, and zeros
    norms = torch.rand(groups * m, generator=generator)
    mask = wanda_mask(weight, norms, PruningConfig(pattern=(n, m)))
    assert torch.equal(mask.reshape(3, groups, m).sum(dim=2), torch.full((3, groups), n))


def test_n_of_m_keeps_the_largest_along_the_row() -> None:
    weight = torch.tensor([[1.0, -9, 3, 2, 5, 5.5, -7, 6]])
    kept = prune(weight, magnitude_mask(weight, PruningConfig(pattern=(2, 4))))
    assert kept.tolist() == [[0, -9, 3, 0, 0, 0, -7, 6]]


def test_wanda_with_uniform_inputs_is_row_magnitude(gen: torch.Generator) -> None:
    weight = torch.randn(11, 60, generator=gen)
    for config in (PruningConfig(sparsity=0.5), PruningConfig(pattern=(3, 5))):
        uniform = wanda_mask(weight, torch.full((60,), 2.5), config)
        assert torch.equal(uniform, magnitude_mask(weight, config))


def test_wanda_beats_magnitude_where_inputs_differ(gen: torch.Generator) -> None:
    weight = torch.randn(11, 60, generator=gen)
    norms = torch.logspace(-2, 2, 60)
    hessian = norms.square().diag()
    config = PruningConfig(sparsity=0.5)
    magnitude = weight - prune(weight, magnitude_mask(weight, config))
    wanda = weight - prune(weight, wanda_mask(weight, norms, config))
    assert torch.trace(wanda @ hessian @ wanda.T) < torch.trace(magnitude @ hessian @ magnitude.T)


@pytest.mark.parametrize("sparsity", [1.0, -0.1, 1.7, float("nan")])
def test_sparsity_out_of_range_is_refused(sparsity: float) -> None:
    with pytest.raises(ValueError, match=f"sparsity={sparsity}"):
        PruningConfig(sparsity=sparsity)


@pytest.mark.parametrize("pattern", [(4, 4), (0, 4), (5, 4), (-1, 2)])
def test_impossible_patterns_are_refused(pattern: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{pattern[0]}:{pattern[1]}"):
        PruningConfig(pattern=pattern)


def test_other_refusals_name_the_values() -> None:
    with pytest.raises(ValueError, match="either sparsity or pattern"):
        PruningConfig()
    with pytest.raises(ValueError, match="either sparsity or pattern"):
        PruningConfig(sparsity=0.5, pattern=(2, 4))
    with pytest.raises(ValueError, match="2:4 needs rows of a multiple of 4 weights, got 10"):
        magnitude_mask(torch.ones(3, 10), PruningConfig(pattern=(2, 4)))
    with pytest.raises(ValueError, match="9 norms for 10 input features"):
        wanda_mask(torch.ones(3, 10), torch.ones(9), PruningConfig(sparsity=0.5))


def test_parse() -> None:
    assert PruningConfig.parse("2:4") == PruningConfig(pattern=(2, 4))
    assert PruningConfig.parse("0.5") == PruningConfig(sparsity=0.5)
    for text in ("half", "1.5", "2:", "4:2"):
        with pytest.raises(ValueError, match=text):
            PruningConfig.parse(text)
