"""One request pass by pass: the law of its tokens, and the caches after every rejection."""

import math
from collections import Counter

import numpy as np
import pytest
import scipy.stats
import torch

from labkit.inference.sampling import SamplingConfig, next_token_distribution
from labkit.inference.speculation.drafters import ModelDrafter, NgramDrafter
from labkit.inference.speculation.passes import SpeculativeDecoder, Statistics
from labkit.inference.speculation.rejection import acceptance_rate
from labkit.inference.speculation.skip_layers import SkipLayerDrafter

PROMPT = [1, 4, 2, 2, 5, 1, 4]


def decoder(target, drafter, config=SamplingConfig(), *, seed=0, max_length=24):  # noqa: B008
    generator = torch.Generator().manual_seed(seed)
    return SpeculativeDecoder(target, drafter, PROMPT, config, generator, max_length=max_length)


@torch.no_grad()
def law_after(model, ids, config):
    return next_token_distribution(model(torch.tensor([ids]))[:, -1], config)[0]


def exact_law(model, config, n):
    """Of all texts of n tokens after the prompt, by enumeration."""
    law = {(): 1.0}
    for _ in range(n):
        longer = {}
        for text, probability in law.items():
            following = law_after(model, [*PROMPT, *text], config).double()
            for token, p in enumerate((following / following.sum()).tolist()):
                if p > 0:
                    longer[(*text, token)] = probability * p
        law = longer
    return law


def texts_of(target, drafter, config, n, k, draws):
    for seed in range(draws):
        one = decoder(target, drafter, config, seed=seed)
        one.prefill()
        while len(one.ids) < len(PROMPT) + n:
            one.step(k)
        yield tuple(one.ids[len(PROMPT) : len(PROMPT) + n])


@pytest.mark.parametrize(
    ("kind", "k", "config"),
    [
        ("model", 2, SamplingConfig(temperature=1.0)),
        ("model", 3, SamplingConfig(temperature=1.3, top_k=4, top_p=0.95)),
        ("skip", 1, SamplingConfig(temperature=0.9)),
        ("ngram", 3, SamplingConfig(temperature=1.5)),
    ],
)
def test_texts_follow_the_targets_joint_law(six, six_draft, kind, k, config):
    drafter = {
        "model": ModelDrafter(six_draft),
        "skip": SkipLayerDrafter(six, [1]),
        "ngram": NgramDrafter(),
    }[kind]
    draws, n = 600, 3
    exact = exact_law(six, config, n)
    counts = Counter(texts_of(six, drafter, config, n, k, draws))
    assert set(counts) <= set(exact)
    often = [text for text, probability in exact.items() if probability * draws >= 5]
    expected = [exact[text] * draws for text in often]
    observed = [counts[text] for text in often]
    rest = draws - sum(expected)
    if rest > 1e-6 * draws:
        expected.append(rest)
        observed.append(draws - sum(observed))
    assert len(expected) > 10
    assert scipy.stats.chisquare(observed, np.array(expected)).pvalue > 1e-4


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_caches_hold_what_was_accepted_and_no_more(byte_loaded, byte_draft, temperature, k):
    target = byte_loaded.model
    config = SamplingConfig(temperature=temperature)
    seen = Counter()
    for seed in range(4):
        one = decoder(target, ModelDrafter(byte_draft), config, seed=seed, max_length=60)
        one.prefill()
        while len(one.ids) < 48:
            before = len(one.ids)
            done = one.step(k)
            seen[done.accepted == done.proposed] += 1
            assert len(one.ids) == before + len(done.tokens) == before + done.accepted + 1
            # The last token is read by the next pass; a guess that stood was read by both.
            assert one.target.length == one.target.cache.length == len(one.ids) - 1
            drafted = one.drafter._reader.length
            assert drafted == len(one.drafter._read) == before + min(done.accepted, k - 1)
            assert one.drafter._read == one.ids[:drafted]
            fresh = decoder(target, NgramDrafter(), config, max_length=60).target
            expected = fresh.read(one.ids)[-1]
            again = one.target.copy()
            torch.testing.assert_close(again.read(one.ids[-1:])[0], expected, rtol=1e-4, atol=1e-4)
    assert seen[True] > 3
    assert seen[False] > 3


def test_a_draft_like_the_target_is_always_accepted(six):
    for temperature in (0.0, 1.0):
        config = SamplingConfig(temperature=temperature, top_p=0.9)
        one = decoder(six, ModelDrafter(six), config)
        one.prefill()
        assert [one.step(3).accepted for _ in range(4)] == [3] * 4
        assert one.statistics == Statistics(passes=4, proposed=12, accepted=12, rejected=0)
        assert one.statistics.acceptance == 1.0
        assert one.statistics.tokens_per_pass == 4.0


def test_the_acceptance_seen_is_the_shared_mass_of_the_laws(six, six_draft):
    config = SamplingConfig(temperature=1.0, top_k=4)
    accepted, expected, passes = 0, 0.0, 400
    variance = 0.0
    for seed in range(passes // 5):
        one = decoder(six, ModelDrafter(six_draft), config, seed=seed)
        one.prefill()
        for _ in range(5):
            p, q = (law_after(model, one.ids, config) for model in (six, six_draft))
            a = float(acceptance_rate(p, q))
            expected, variance = expected + a, variance + a * (1 - a)
            accepted += one.step(1).accepted
    assert 0.2 < expected / passes < 0.9
    assert abs(accepted - expected) < 4 * math.sqrt(variance)


def test_k_zero_is_plain_decoding(six, six_draft):
    one = decoder(six, ModelDrafter(six_draft))
    first = one.prefill()
    done = one.step(0)
    assert (done.proposed, done.accepted, len(done.tokens)) == (0, 0, 1)
    assert one.ids == [*PROMPT, first, *done.tokens]
    assert one.target.length == len(one.ids) - 1


def test_statistics_without_passes_are_nan():
    assert math.isnan(Statistics().acceptance)
    assert math.isnan(Statistics().tokens_per_pass)


def test_acceptance_counts_only_what_was_tested():
    statistics = Statistics()
    for accepted in (3, 0, 1):
        statistics.record(proposed=3, accepted=accepted)
    assert statistics == Statistics(passes=3, proposed=9, accepted=4, rejected=2)
    assert statistics.acceptance == pytest.approx(4 / 6)
    assert statistics.tokens_per_pass == pytest.approx(7 / 3)


def test_a_window_that_rolls_over_cannot_be_rolled_back(six_config, windowed):
    target = windowed(six_config, 10)
    with pytest.raises(ValueError, match="sliding_window=10, beyond which rejected tokens"):
        decoder(target, NgramDrafter(), max_length=11)
    decoder(target, NgramDrafter(), max_length=10).prefill()
    with pytest.raises(ValueError, match="25 tokens exceed max_length=24"):
        decoder(target, NgramDrafter(), max_length=25)
