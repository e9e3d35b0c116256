"""Penalties are transformers' and the OpenAI API's; counts are those of a plain Counter."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from labkit.inference.penalties import SeenTokens, penalised


def seen_of(prompt: list[int], output: list[int]) -> SeenTokens:
    seen = SeenTokens(prompt)
    for token in output:
        seen.add(token)
    return seen


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3, 4.0])
def test_repetition_equals_transformers(gen, penalty):
    logits = torch.randn(1, 97, generator=gen) * 5
    logits[0, 5], logits[0, 6] = 0.0, -torch.inf
    ids = torch.tensor([[3, 5, 6, 9, 9, 41, 3, 96]])
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    seen = seen_of([3, 5, 6, 9], [9, 41, 3, 96])
    ours = logits.clone()
    ours[0, seen.ids] = penalised(logits[0, seen.ids], seen.counts, repetition=penalty)
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)  # the same two float32 operations


@pytest.mark.parametrize(("presence", "frequency"), [(0.7, 0.0), (0.0, 0.3), (-1.1, 0.45)])
def test_presence_and_frequency_are_the_documented_formula(gen, presence, frequency):
    scores = torch.randn(6, generator=gen)
    counts = torch.tensor([0.0, 1.0, 2.0, 7.0, 0.0, 3.0])
    ours = penalised(scores, counts, presence=presence, frequency=frequency)
    # mu[j] -> mu[j] - c[j] * alpha_frequency - float(c[j] > 0) * alpha_presence
    mu, c = scores.double().numpy(), counts.double().numpy()
    expected = mu - c * frequency - (c > 0) * presence
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-6, atol=1e-6)  # float32 rounding


def test_the_repetition_penalty_comes_before_the_others():
    ours = penalised(torch.tensor([2.0]), torch.tensor([1.0]), repetition=2.0, presence=3.0)
    assert ours.item() == 2 / 2 - 3  # after them it would be (2 - 3) * 2


@given(st.lists(st.integers(0, 9), max_size=8), st.lists(st.integers(0, 400), max_size=90))
def test_seen_tokens_are_prompt_and_output_and_counts_are_the_outputs(prompt, output):
    seen = seen_of(prompt, output)
    counts = dict(zip(seen.ids.tolist(), seen.counts.tolist(), strict=True))
    assert len(counts) == len(seen.ids)
    assert counts == {token: Counter(output)[token] for token in {*prompt, *output}}
