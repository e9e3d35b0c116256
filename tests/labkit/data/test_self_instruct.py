"""ROUGE-L against a listing of all subsequences, the parser on real shapes, the pool's history."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.data import self_instruct as si

SEEDS = [f"Write {count} words about the {thing} in a garden" for count, thing in enumerate(
    ["apple", "bench", "cloud", "door", "elm", "fence", "gate", "hedge"], start=2
)]  # fmt: skip
short = st.lists(st.sampled_from("abc"), max_size=7)


def brute_lcs(a, b):
    """Longest tuple that is a subsequence of both, by listing those of `a`."""

    def subsequences(x):
        return {c for n in range(len(x) + 1) for c in itertools.combinations(x, n)}

    return max(map(len, subsequences(a) & subsequences(b)))


@given(short, short)
def test_lcs_is_the_longest_of_all_common_subsequences(a, b):
    assert si.lcs_length(a, b) == brute_lcs(a, b)


@pytest.mark.parametrize(
    ("a", "b", "score"),
    [
        ("police killed the gunman", "police kill the gunman", 0.75),
        ("Name THREE colours!", "name three colours", 1.0),
        ("one two three four", "four three two one", 0.25),
        ("one two", "one two three four five six", 0.5),
        ("好的", "好的", 0.0),
        ("", "a", 0.0),
    ],
)
def test_rouge_l_by_hand(a, b, score):
    assert si.rouge_l(a, b) == pytest.approx(score) == si.rouge_l(b, a)


def test_a_prompt_ends_where_the_model_goes_on():
    prompt = si.build_prompt(["Add two numbers.", "Name a tree."])
    assert prompt.endswith("\nTask 1: Add two numbers.\nTask 2: Name a tree.\nTask 3:")


@pytest.mark.parametrize(
    ("continuation", "found"),
    [
        (" Sing a song.\nTask 10: Draw a map.\nTask 11: Unfin", ["Sing a song.", "Draw a map."]),
        (" Only one, and over two\nlines", ["Only one, and over two lines"]),
        (" First.\nTask 12: Jumps ahead.\nTask 13: x", ["First."]),
        (" First.\nTask 9: Again.", ["First."]),
        ("\nTask 10: Second.\nTask 11: Third", ["Second."]),
        ("   ", []),
        (" Say Task 10: inline.\nTask 10: Next.\nTask 11:", ["Say Task 10: inline.", "Next."]),
    ],
)
def test_parse(continuation, found):
    assert si.parse(continuation, 9) == found


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("Name a tree", "too short"),
        ("Name a tall tree", ""),
        ("word " * 10, ""),
        ("word " * 11, "too long"),
        ("1. Name a tall tree", "begins with no letter"),
        ("请 写 一 首 诗", "begins with no letter"),
        ("Describe this image in words", "needs more than text"),
        ("Describe how imagery works here", ""),
    ],
)
def test_unfit(instruction, reason):
    config = si.SelfInstructConfig(fewest_words=4, most_words=10)
    assert si.unfit(instruction, config) == reason


def test_novelty_is_refused_from_the_threshold_on():
    pool = ["a b c d", "w x y z"]  # ROUGE-L with the candidate: 3/4 and 1/4
    config = si.SelfInstructConfig(novelty=0.75)
    assert si.judge("a b c z", pool, config) == ("like another", 0.75)
    assert si.judge("a b c z", pool, si.SelfInstructConfig(novelty=0.76)) == ("", 0.75)
    assert si.judge("a b c z", [], config) == ("", 0.0)


def run(texts, *, rounds=2, config=None, seed=0):
    seen = []

    def generate(prompts):
        seen.extend(prompts)
        return [next(texts) for _ in prompts]

    config = config or si.SelfInstructConfig(seeds_shown=6, grown_shown=2)
    rng = np.random.default_rng(seed)
    grown = si.grow(SEEDS, generate, config, rounds=rounds, prompts_a_round=2, rng=rng)
    return list(grown), seen


def test_kept_tasks_join_the_pool_and_their_origin_is_on_record():
    texts = iter([
        " Explain how rain is formed.", " Explain how rain is made.",
        " Count slowly from ten to zero.", " List five uses of old newspapers.",
    ])  # fmt: skip
    found, prompts = run(texts)
    assert [c.dropped for c in found] == ["", "like another", "", ""]
    assert found[1].similarity == pytest.approx(0.8)
    assert [c.round for c in found] == [1, 1, 2, 2]
    pool = [*SEEDS, *(c.instruction for c in found if not c.dropped)]
    for candidate, prompt in zip(found, prompts, strict=True):
        assert prompt == si.build_prompt([pool[i] for i in candidate.shown])
    assert all(i < len(SEEDS) for c in found[:2] for i in c.shown)
    # One task had been found by the second round, so one is shown and seeds fill up.
    assert all(sum(i >= len(SEEDS) for i in c.shown) == 1 for c in found[2:])
    assert all(len(set(c.shown)) == 8 for c in found)


def test_no_pair_of_kept_tasks_is_alike():
    things = ["moon", "sun", "sea", "sky"]
    texts = iter([f" Write a poem about the {t} tonight." for t in things * 2])
    found, _ = run(texts, rounds=4)
    kept = [*SEEDS, *(c.instruction for c in found if not c.dropped)]
    assert len(kept) == len(SEEDS) + 1
    pairs = itertools.combinations(kept[len(SEEDS) - 1 :], 2)
    assert all(si.rouge_l(a, b) < 0.7 for a, b in pairs)


def test_the_generator_decides_what_is_shown():
    text = " Explain how rain is formed."
    first, again, other = (run(itertools.repeat(text), seed=s)[0] for s in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds_shown": 0}, "seeds_shown=0 must be at least 1"),
        ({"fewest_words": 5, "most_words": 4}, "fewest_words=5 must lie between"),
        ({"novelty": 0.0}, r"novelty=0.0 must lie in \(0, 1\]"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        si.SelfInstructConfig(**change)


def test_refuses_too_few_seeds_and_lost_texts():
    config = si.SelfInstructConfig(seeds_shown=9)
    with pytest.raises(ValueError, match="8 seeds are fewer than the 11 tasks"):
        run(iter(()), config=config)
    rng = np.random.default_rng(0)
    grown = si.grow(
        SEEDS, lambda p: [], si.SelfInstructConfig(), rounds=1, prompts_a_round=2, rng=rng
    )
    with pytest.raises(ValueError, match="returned 0 texts for 2 prompts"):
        next(grown)
