"""Log-probabilities are scipy's in float64, ordered as argmax orders, and alike in any batch."""

import numpy as np
import pytest
import scipy.special
import torch

from labkit.inference import logprobs
from labkit.inference.logprobs import prompt_logprobs, token_logprobs


def test_they_are_log_softmax_in_any_batch_and_chunk(gen, monkeypatch):
    logits = torch.randn(7, 113, generator=gen) * 4
    tokens = torch.randint(113, (7,), generator=gen)
    ours = token_logprobs(logits, tokens, 5)
    expected = scipy.special.log_softmax(logits.double().numpy(), axis=-1)
    for row, (own, top) in enumerate(ours):
        assert own == pytest.approx(expected[row, tokens[row]], abs=2e-6)  # float32 sums
        best = np.argsort(-expected[row])[:5]
        assert [token for token, _ in top] == best.tolist()
        np.testing.assert_allclose([p for _, p in top], expected[row, best], atol=2e-6)
        assert token_logprobs(logits[row : row + 1], tokens[row : row + 1], 5) == [ours[row]]
    monkeypatch.setattr(logprobs, "CHUNK", 3)
    assert token_logprobs(logits, tokens, 5) == ours


def test_equal_logits_are_listed_by_id_and_argmax_leads():
    logits = torch.tensor([[0.0, 2.0, 1.0, 2.0, 2.0, 1.0]]).bfloat16()
    [(own, top)] = token_logprobs(logits, logits.argmax(-1), 5)
    assert [token for token, _ in top] == [1, 3, 4, 2, 5]
    assert own == top[0][1]
    [(_, many)] = token_logprobs(torch.zeros(1, 5_000), torch.tensor([0]), 900)
    assert [token for token, _ in many] == list(range(900))


def test_logits_apart_by_less_than_log_probabilities_can_tell_keep_their_order():
    logits = torch.full((1, 40), 10.0)
    logits[0, 30] = torch.nextafter(torch.tensor(10.0), torch.tensor(11.0))
    [(own, top)] = token_logprobs(logits, logits.argmax(-1), 2)
    assert top[0] == (30, own)


@pytest.mark.parametrize(("num_top", "listed"), [(0, 0), (3, 3), (500, 20)])
def test_as_many_as_asked_for_and_there_are(gen, num_top, listed):
    [(_, top)] = token_logprobs(torch.randn(1, 20, generator=gen), torch.tensor([3]), num_top)
    assert len(top) == listed
    assert len(dict(top)) == listed


def test_a_masked_token_has_no_probability():
    [(own, top)] = token_logprobs(torch.tensor([[0.0, -torch.inf]]), torch.tensor([1]), 2)
    assert own == -float("inf")
    assert top == ((0, 0.0), (1, -float("inf")))


def test_a_prompts_tokens_are_scored_by_the_position_before_them(gen):
    logits, ids = torch.randn(6, 31, generator=gen), torch.randint(31, (6,), generator=gen)
    first, *rest = prompt_logprobs(logits, ids, 2)
    assert first is None
    assert rest == [token_logprobs(logits[t - 1 : t], ids[t : t + 1], 2)[0] for t in range(1, 6)]
    assert prompt_logprobs(logits[:1], ids[:1], 2) == [None]
