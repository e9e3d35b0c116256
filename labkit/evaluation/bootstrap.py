"""How sure a mean over items is: percentile bootstrap intervals, single and paired."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

Statistic = Callable[..., Any]
_CHUNK_VALUES = 4_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval around an estimate."""

    low: float
    estimate: float
    high: float

    def contains(self, value: float) -> bool:
        return self.low <= value <= self.high


def interval(
    values: Shaped[np.ndarray, "N"] | list[float],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    rng: np.random.Generator,
    statistic: Statistic = np.mean,
) -> Interval:
    """Percentile bootstrap: the middle `level` of the statistic over resamples with replacement.

    Paper: Efron and Tibshirani, An Introduction to the Bootstrap, section 13.3.

    Args:
        values: one number per independent item, such as correct (1) or not (0). Items that hang
            together (questions on one text) belong in one value, or the interval is too narrow.
        level: share of resamples inside, in (0, 1).
        resamples: how many.
        rng: draws the resamples.
        statistic: function of an array and `axis`, such as np.mean or np.median.

    Raises:
        ValueError: fewer than two values, one not finite, or `level` or `resamples` out of range.
    """
    data = _checked(values, level, resamples)
    chunk = max(1, _CHUNK_VALUES // len(data))
    draws = []
    for start in range(0, resamples, chunk):
        shape = (min(chunk, resamples - start), len(data))
        draws.append(statistic(data[rng.integers(0, len(data), shape)], axis=-1))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(draws), [tail, 1 - tail])
    return Interval(float(low), float(statistic(data, axis=-1)), float(high))


def paired_difference(
    first: Shaped[np.ndarray, "N"] | list[float],
    second: Shaped[np.ndarray, "M"] | list[float],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    rng: np.random.Generator,
) -> Interval:
    """Interval of mean(first - second) over items that both were measured on.

    Hard items are hard for both: pairing takes that shared part out, which two separate intervals
    leave in. A difference is shown when the interval excludes 0.

    Args:
        first: one number per item.
        second: the rival's numbers, on the same items in the same order.
        level: see `interval`.
        resamples: see `interval`.
        rng: see `interval`.

    Raises:
        ValueError: as `interval`, or there are not as many values on both sides.
    """
    a, b = _checked(first, level, resamples), _checked(second, level, resamples)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values cannot be paired item by item")
    return interval(a - b, level=level, resamples=resamples, rng=rng)


def _checked(
    values: Shaped[np.ndarray, "N"] | list[float], level: float, resamples: int
) -> Float[np.ndarray, "N"]:
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or len(data) < 2:
        raise ValueError(f"an interval needs a row of at least 2 values, got shape {data.shape}")
    if not np.isfinite(data).all():
        raise ValueError(f"{int((~np.isfinite(data)).sum())} of {len(data)} values are not finite")
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1, such as 0.95")
    if resamples < 1:
        raise ValueError(f"resamples={resamples} must be at least 1")
    return data
