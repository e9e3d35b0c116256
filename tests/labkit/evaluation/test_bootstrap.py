"""Bootstrap intervals against scipy's, from the same random draws."""

import numpy as np
import pytest
import scipy.stats

from labkit.evaluation.bootstrap import Interval, interval, paired_difference


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(5).exponential(3, 47)


@pytest.mark.parametrize("statistic", [np.mean, np.median])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_equals_scipy(values: np.ndarray, statistic: object, level: float) -> None:
    got = interval(
        values,
        level=level,
        resamples=999,
        rng=np.random.default_rng(3),
        statistic=statistic,
    )
    expected = scipy.stats.bootstrap(
        (values,),
        statistic,
        n_resamples=999,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    np.testing.assert_allclose((got.low, got.high), (expected.low, expected.high), rtol=1e-12)
    assert got.estimate == pytest.approx(statistic(values))


def test_paired_difference_equals_scipys_paired_bootstrap(values: np.ndarray) -> None:
    other = values + np.random.default_rng(6).normal(0.4, 1, 47)
    got = paired_difference(values, other, resamples=999, rng=np.random.default_rng(3))
    expected = scipy.stats.bootstrap(
        (values, other),
        lambda a, b, axis: (a - b).mean(axis),
        n_resamples=999,
        paired=True,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    np.testing.assert_allclose((got.low, got.high), (expected.low, expected.high), rtol=1e-12)


def test_chunks_draw_the_same_resamples(
    values: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = interval(values, resamples=500, rng=np.random.default_rng(3))
    monkeypatch.setattr("labkit.evaluation.bootstrap._CHUNK_VALUES", 100)
    assert interval(values, resamples=500, rng=np.random.default_rng(3)) == whole


def test_pairing_narrows_the_interval(rng: np.random.Generator) -> None:
    difficulty = rng.normal(0, 5, 200)
    first, second = difficulty + rng.normal(0.3, 1, 200), difficulty + rng.normal(0, 1, 200)
    paired = paired_difference(first, second, rng=rng)
    alone = interval(first, rng=rng)
    assert paired.high - paired.low < (alone.high - alone.low) / 2
    assert not paired.contains(0.0)
    assert interval(first - second, rng=rng).contains(paired.estimate)


def test_coverage_is_near_the_level() -> None:
    """300 samples of 60 from a known mean: 95% intervals should hold it about 95% of the time."""
    rng = np.random.default_rng(8)
    hits = [
        interval(rng.normal(2, 3, 60), resamples=300, rng=rng).contains(2.0) for _ in range(300)
    ]
    assert 0.90 <= np.mean(hits) <= 0.98


def test_booleans_are_items_that_were_right_or_wrong(rng: np.random.Generator) -> None:
    correct = np.array([True, False, True, True])
    got = interval(correct, rng=rng)
    assert got.estimate == 0.75
    assert 0 <= got.low <= got.high <= 1
    assert interval([1.0, 1.0, 1.0], rng=rng) == Interval(1.0, 1.0, 1.0)


def test_bad_input_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="at least 2 values"):
        interval([1.0], rng=rng)
    with pytest.raises(ValueError, match="1 of 2 values are not finite"):
        interval([1.0, float("nan")], rng=rng)
    with pytest.raises(ValueError, match=r"level=95.0"):
        interval([1.0, 2.0], level=95.0, rng=rng)
    with pytest.raises(ValueError, match="resamples=0"):
        interval([1.0, 2.0], resamples=0, rng=rng)
    with pytest.raises(ValueError, match="3 and 2 values cannot be paired"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0], rng=rng)
