"""Winnowing keeps its promise: every shared run of GUARANTEE tokens is found, none shorter."""

import random
from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from grader.similarity.winnowing import (
    GUARANTEE,
    MAX_REPEATS,
    NOISE,
    WINDOW,
    Fingerprinted,
    Run,
    fingerprint,
    kgrams,
    shared_runs,
    winnow,
)


def printed(words: list[str]) -> Fingerprinted:
    return fingerprint(words, kgrams(words))


@given(
    st.lists(st.integers(0, 9), max_size=40),
    st.sets(st.integers(0, 9), max_size=4),
)
def test_winnowing_is_the_papers_definition(hashes: list[int], ignored: set[int]) -> None:
    expected = set()
    for start in range(len(hashes) - WINDOW + 1):
        window = [at for at in range(start, start + WINDOW) if hashes[at] not in ignored]
        if window:
            expected.add(min(window, key=lambda at: (hashes[at], -at)))
    assert sorted(winnow(hashes, ignored)) == sorted(expected)


@pytest.mark.parametrize("seed", range(200))
def test_a_shared_run_of_the_guaranteed_length_is_found(seed: int) -> None:
    rng = random.Random(seed)
    run = [f"r{at}" for at in range(GUARANTEE)]
    before, after = rng.randrange(40), rng.randrange(40)
    one = [f"a{at}" for at in range(before)] + run + [f"b{at}" for at in range(rng.randrange(40))]
    two = [f"c{at}" for at in range(after)] + run + [f"d{at}" for at in range(rng.randrange(40))]
    assert shared_runs(printed(one), printed(two)) == [Run(before, after, GUARANTEE)]


PARTS = {"p": 9, "a": 16, "M": 20, "b": 16, "q": 9, "X": 60, "Y": 60, "|": 1}
BLOCKS = [random.Random(seed).choices("ab", k=24) for seed in range(5)]
SLICES = st.tuples(st.sampled_from(BLOCKS), st.integers(0, 8), st.integers(12, 24))
TEXTS = st.lists(SLICES, max_size=8).map(
    lambda slices: [word for block, start, end in slices for word in block[start:end]]
)


@given(TEXTS, TEXTS)
def test_no_shared_run_of_the_guaranteed_length_is_passed_over(
    one: list[str], two: list[str]
) -> None:
    for text in (one, two):
        assume(max(Counter(kgrams(text)).values(), default=0) <= MAX_REPEATS)
    runs = shared_runs(printed(one), printed(two))
    taken = [[run.first + at for run in runs for at in range(run.length)]]
    taken.append([run.second + at for run in runs for at in range(run.length)])
    assert [len(side) for side in taken] == [len(set(side)) for side in taken]
    assert all(
        run.length >= GUARANTEE
        and one[run.first : run.first + run.length] == two[run.second : run.second + run.length]
        for run in runs
    )
    for first in range(len(one) - GUARANTEE + 1):
        for second in range(len(two) - GUARANTEE + 1):
            if one[first : first + GUARANTEE] == two[second : second + GUARANTEE]:
                sides = zip(taken, (first, second), strict=True)
                assert any(at in side for side, at0 in sides for at in range(at0, at0 + GUARANTEE))


def test_what_is_left_before_and_behind_a_taken_part_is_taken() -> None:
    words = {name: [f"{name}{at}" for at in range(size)] for name, size in PARTS.items()}

    def text(parts: str) -> list[str]:
        return [word for name in parts for word in words[name]]

    one, two = printed(text("paMbq|Xpa|bqY")), printed(text("XpaMbqY|aMb"))
    assert [run.length for run in shared_runs(one, two)] == [16, 20, 16, 85, 85]


def test_a_run_that_is_partly_ignored_is_found_and_one_too_short_is_not() -> None:
    run = [f"r{at}" for at in range(GUARANTEE)]
    hashes = kgrams(run)
    ignored = set(hashes[1:])
    both = fingerprint(run, hashes, ignored)
    assert shared_runs(both, both) == [Run(0, 0, GUARANTEE)]
    assert shared_runs(printed(run), fingerprint(run, hashes, set(hashes))) == []
    one, two = ["a", *run[1:], "b"], ["c", *run[1:], "d"]
    assert shared_runs(printed(one), printed(two)) == []


def test_runs_in_another_order_do_not_overlap() -> None:
    left, right = ([f"{side}{at}" for at in range(30)] for side in "lr")
    runs = shared_runs(printed([*left, *right]), printed([*right, "x", *left, *left[:20]]))
    assert runs == [Run(0, 31, 30), Run(30, 0, 30)]


def test_the_window_is_as_wide_as_the_promise_allows() -> None:
    assert NOISE + WINDOW - 1 == GUARANTEE


def test_fingerprints_are_the_same_in_every_process() -> None:
    assert kgrams(["name"] * NOISE) == [7837985351688373070]
