"""The distribution is transformers'; the draws follow it, alone and in any batch."""

import numpy as np
import pytest
import scipy.stats
import torch
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from labkit.inference.sampling import SamplingConfig, next_token_distribution, sample


def oracle(logits: torch.Tensor, config: SamplingConfig) -> torch.Tensor:
    warpers = [TemperatureLogitsWarper(config.temperature)]
    if config.top_k is not None:
        warpers.append(TopKLogitsWarper(config.top_k))
    if config.top_p is not None:
        warpers.append(TopPLogitsWarper(config.top_p))
    ids = torch.zeros(len(logits), 1, dtype=torch.long)
    for warper in warpers:
        logits = warper(ids, logits)
    return logits.softmax(-1)


def logits_with_ties(gen: torch.Generator) -> torch.Tensor:
    logits = torch.randn(5, 97, generator=gen) * 3
    logits[1] = logits[1].round()  # many ties, also at the k-th and at the crossing of top-p
    logits[2] = 0.5  # all equal
    logits[3, 40:] = -torch.inf
    return logits


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [None, 1, 7, 97, 500])
@pytest.mark.parametrize("top_p", [None, 1e-9, 1e-6, 0.5, 0.9, 1.0])
def test_distribution_equals_transformers(gen, temperature, top_k, top_p):
    config = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    logits = logits_with_ties(gen)
    before = logits.clone()
    probs = next_token_distribution(logits, config)
    torch.testing.assert_close(probs, oracle(logits, config), rtol=1e-6, atol=1e-9)
    assert torch.equal(logits, before)


def test_top_p_keeps_the_token_that_crosses():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    kept = next_token_distribution(logits, SamplingConfig(temperature=1.0, top_p=0.6)) > 0
    assert kept.tolist() == [[True, True, False, False]]
    kept = next_token_distribution(logits, SamplingConfig(temperature=1.0, top_p=0.4)) > 0
    assert kept.tolist() == [[True, False, False, False]]


def test_temperature_precedes_top_p():
    logits = torch.tensor([[0.6, 0.3, 0.1]]).log()
    hot = next_token_distribution(logits, SamplingConfig(temperature=50.0, top_p=0.6))
    assert (hot > 0).sum() == 2


def test_zero_temperature_is_the_first_of_the_largest(gen):
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0]])
    config = SamplingConfig(temperature=0.0, top_k=2, top_p=0.1)
    assert next_token_distribution(logits, config).tolist() == [[0, 1, 0, 0]]


def test_bfloat16_logits_give_a_float32_distribution(gen):
    logits = torch.randn(3, 29, generator=gen).bfloat16()
    probs = next_token_distribution(logits, SamplingConfig(temperature=0.7, top_p=0.8))
    assert probs.dtype == torch.float32
    torch.testing.assert_close(probs.sum(-1), torch.ones(3))


def test_frequencies_follow_the_distribution(gen):
    config = SamplingConfig(temperature=1.3, top_k=11)
    probs = next_token_distribution(torch.randn(1, 23, generator=gen) * 2, config)
    draws = sample(probs.expand(40_000, -1), gen)
    counts = np.bincount(draws.numpy(), minlength=23)
    kept = probs[0].numpy() > 0
    assert counts[~kept].sum() == 0
    expected = probs[0].double().numpy()[kept]
    test = scipy.stats.chisquare(counts[kept], expected / expected.sum() * counts.sum())
    assert test.pvalue > 1e-3


def test_rows_with_their_own_generators_draw_the_same_in_any_batch(gen):
    probs = torch.rand(6, 31, generator=gen)
    together = sample(probs, [torch.Generator().manual_seed(i) for i in range(6)])
    for row in range(6):
        alone = sample(probs[row : row + 1], torch.Generator().manual_seed(row))
        assert alone.item() == together[row].item()


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
def test_extreme_draws_never_hit_a_token_of_probability_zero(u, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *a, **k: torch.tensor([u], dtype=torch.float64))
    probs = torch.tensor([[0.0, 0.1, 0.7, 0.2, 0.0]])
    assert sample(probs, torch.Generator()).item() in {1, 3}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.01}, "top_p=1.01"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"stop": ("",)}, "stop="),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**values)


def test_sample_refuses_what_is_no_distribution(gen):
    with pytest.raises(ValueError, match="sum to"):
        sample(torch.zeros(1, 5), gen)
    with pytest.raises(ValueError, match="2 generators for B=3 rows"):
        sample(torch.ones(3, 5), [gen, gen])
