"""How the comparison of tuning methods searches a learning rate: no training here."""

from typing import Any

from benchmarks.peft_methods import FACTOR, FIRST_RATES, MOST_RATES, SEEDS, next_run
from labkit.tuning.methods import METHODS


def searched(best: float, first: float = 1.0) -> list[tuple[float, int]]:
    """All runs, where the validation loss is least at one rate."""
    known: list[dict[str, Any]] = []
    while (run := next_run(known, first)) is not None:
        rate, seed = run
        known.append({"lr": rate, "seed": seed, "validation": abs(rate - best)})
    return [(row["lr"], row["seed"]) for row in known]


def test_a_best_rate_in_the_middle_ends_the_search() -> None:
    rates = [1.0, 1.0 / FACTOR, FACTOR]
    assert searched(1.0) == [(rate, SEEDS[0]) for rate in rates] + [(1.0, s) for s in SEEDS[1:]]


def test_a_best_rate_at_the_edge_is_followed_until_it_is_inside() -> None:
    runs = searched(FACTOR**2)
    assert (FACTOR**3, SEEDS[0]) in runs
    assert [seed for rate, seed in runs if rate == FACTOR**2] == list(SEEDS)


def test_the_search_ends_somewhere() -> None:
    assert len({rate for rate, _ in searched(1e9)}) == MOST_RATES
    assert len({rate for rate, _ in searched(0.0)}) == MOST_RATES


def test_every_method_is_compared() -> None:
    assert set(FIRST_RATES) == set(METHODS)
