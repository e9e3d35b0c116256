"""The distribution is transformers'; the draws follow it, alone and in any batch."""

import dataclasses
import pickle

import numpy as np
import pytest
import scipy.stats
import torch
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from labkit.inference.penalties import LogitBias
from labkit.inference.sampling import (
    NUCLEUS,
    SamplingConfig,
    next_token_distribution,
    next_token_distributions,
    sample,
)


def oracle(logits: torch.Tensor, config: SamplingConfig) -> torch.Tensor:
    warpers = [TemperatureLogitsWarper(config.temperature)]
    if config.top_k is not None:
        warpers.append(TopKLogitsWarper(config.top_k))
    if config.top_p is not None:
        warpers.append(TopPLogitsWarper(config.top_p))
    if config.min_p is not None:
        warpers.append(MinPLogitsWarper(config.min_p))
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
@pytest.mark.parametrize("min_p", [None, 0.0, 0.07, 1.0])
def test_distribution_equals_transformers(gen, temperature, top_k, top_p, min_p):
    config = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
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


def test_top_p_precedes_min_p():
    # min-p first would leave 0.5 and 0.3 (0.625 of the rest), and top-p then the first alone.
    logits = torch.tensor([[0.5, 0.3, 0.1, 0.1]]).log()
    config = SamplingConfig(temperature=1.0, top_p=0.55, min_p=0.4)
    assert (next_token_distribution(logits, config) > 0).tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("top_p", [1e-9, 0.3, 0.9, 0.99])
def test_top_p_of_a_large_vocabulary_equals_transformers(gen, top_p):
    """Rows that end within the likeliest tokens, at their edge, and ones that need all."""
    widths = torch.tensor([9.0, 5.0, 3.5, 3.0, 2.5, 0.5, 0.0])[:, None]
    logits = torch.randn(7, 3_001, generator=gen) * widths
    config = SamplingConfig(temperature=1.0, top_p=top_p)
    probs = next_token_distribution(logits, config)
    expected = oracle(logits, config)
    assert torch.equal((probs > 0).sum(-1), (expected > 0).sum(-1))
    # All tokens of the last row are equal: which of them stay is nobody's rule.
    torch.testing.assert_close(probs[:-1], expected[:-1], rtol=1e-5, atol=1e-12)
    kept = (probs > 0).sum(-1)
    if top_p == 0.9:
        assert kept.min() < NUCLEUS < kept.max()
    for row in range(7):
        alone = next_token_distribution(logits[row : row + 1], config)
        assert torch.equal(alone[0], probs[row])


def test_min_p_keeps_the_token_at_its_bound_and_follows_temperature():
    logits = torch.tensor([[8.0, 4.0, 2.0, 1.0]]).log()
    kept = next_token_distribution(logits, SamplingConfig(temperature=1.0, min_p=0.5)) > 0
    assert kept.tolist() == [[True, True, False, False]]
    kept = next_token_distribution(logits, SamplingConfig(temperature=2.0, min_p=0.5)) > 0
    assert kept.tolist() == [[True, True, True, False]]


def test_each_row_by_its_own_configuration_is_bit_for_bit_as_alone(gen):
    logits = torch.randn(6, 331, generator=gen) * 3
    configs = [
        SamplingConfig(temperature=0.7),
        SamplingConfig(temperature=1.9, top_k=5, min_p=0.2),
        SamplingConfig(),
        SamplingConfig(temperature=1.0, top_k=40, top_p=0.8),
        SamplingConfig(temperature=1.3, top_p=0.95),
        SamplingConfig(temperature=1.3, min_p=0.01),
    ]
    together = next_token_distributions(logits, configs)
    assert len({int((row > 0).sum()) for row in together}) == 6
    for row, config in enumerate(configs):
        alone = next_token_distribution(logits[row : row + 1], config)
        assert torch.equal(together[row : row + 1], alone)


@pytest.mark.parametrize("temperature", [1e-6, 1e6])
def test_extreme_temperatures_stay_numbers(temperature):
    logits = torch.tensor([[1e9, -1e9, 3.0, -torch.inf]])
    probs = next_token_distribution(logits, SamplingConfig(temperature=temperature, top_p=0.9))
    assert probs.sum().item() == pytest.approx(1)
    assert probs.argmax().item() == 0


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
        ({"temperature": 1e-7}, "temperature=1e-07"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.01}, "top_p=1.01"),
        ({"min_p": -0.1}, "min_p=-0.1"),
        ({"min_p": 1.1}, "min_p=1.1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty=nan"),
        ({"presence_penalty": float("inf")}, "presence_penalty=inf"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty=nan"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias={-1: 1.0}"),
        ({"logit_bias": {1: float("-inf")}}, "logit_bias={1: -inf}"),
        ({"logprobs": -1}, "logprobs=-1"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"min_new_tokens": -1}, "min_new_tokens=-1"),
        ({"min_new_tokens": 3, "max_new_tokens": 2}, "min_new_tokens=3 .* max_new_tokens=2"),
        ({"stop_token_ids": (4, -2)}, r"stop_token_ids=\(4, -2\)"),
        ({"stop": ("",)}, "stop="),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**values)


def test_a_configuration_is_hashed_pickled_and_beyond_change():
    bias = {3: 1.5, 4: -2.0}
    config = SamplingConfig(logit_bias=bias)
    bias[5] = 1.0
    assert config.logit_bias == {3: 1.5, 4: -2.0}
    other = SamplingConfig(logit_bias={4: -2.0, 3: 1.5})
    assert (config, hash(config)) == (other, hash(other))
    assert config != SamplingConfig(logit_bias={3: 1.5})
    assert pickle.loads(pickle.dumps(config)) == config
    assert dataclasses.replace(config, seed=1).logit_bias == config.logit_bias
    assert dataclasses.asdict(config)["logit_bias"] == {3: 1.5, 4: -2.0}
    with pytest.raises(TypeError):
        config.logit_bias[3] = 0.0
    assert repr(LogitBias({3: 1.5})) == "LogitBias({3: 1.5})"


def test_token_ids_beyond_the_vocabulary_are_named():
    config = SamplingConfig(logit_bias={7: 1.0, 97: 1.0}, stop_token_ids=(98,))
    with pytest.raises(ValueError, match=r"stop_token_ids names tokens \[98\].*below 98"):
        config.check_token_ids(98)
    with pytest.raises(ValueError, match=r"logit_bias names tokens \[97\]"):
        config.check_token_ids(97)
    config.check_token_ids(99)


def test_sample_refuses_what_is_no_distribution(gen):
    with pytest.raises(ValueError, match="sum to"):
        sample(torch.zeros(1, 5), gen)
    with pytest.raises(ValueError, match="2 generators for B=3 rows"):
        sample(torch.ones(3, 5), [gen, gen])
