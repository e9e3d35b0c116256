"""Response log-probabilities against a float64 loop: only labelled tokens count."""

import pytest
import torch

from labkit.objectives.language_modelling import IGNORE_INDEX, cross_entropy
from labkit.objectives.sequence_log_probs import counted_log_probs, sequence_log_probs

B, T, V = 3, 7, 13


@pytest.fixture
def logits(gen):
    return 4.0 * torch.randn(B, T, V, generator=gen)


@pytest.fixture
def labels(gen):
    labels = torch.randint(V, (B, T), generator=gen)
    labels[:, :2] = IGNORE_INDEX
    labels[1, 5:] = IGNORE_INDEX
    labels[2, 3] = IGNORE_INDEX  # a turn of someone else, between two of the response
    return labels


def test_equals_the_definition(logits, labels):
    sums, lengths = sequence_log_probs(logits, labels)
    log_probs = logits.double().log_softmax(-1)
    for b in range(B):
        places = [t for t in range(1, T) if labels[b, t] != IGNORE_INDEX]
        expected = sum(log_probs[b, t - 1, labels[b, t]].item() for t in places)
        assert lengths[b] == len(places)
        assert sums[b].item() == pytest.approx(expected, rel=1e-6)
    assert lengths.tolist() == [5, 3, 4]


def test_is_the_negative_of_the_cross_entropy(logits, labels):
    sums, lengths = sequence_log_probs(logits, labels)
    loss, tokens = cross_entropy(logits, labels)
    assert tokens == lengths.sum()
    torch.testing.assert_close(-sums.sum(), loss, rtol=1e-6, atol=0)


def test_what_does_not_count_gets_zero_and_no_gradient(logits, labels):
    logits.requires_grad_()
    log_probs, counted = counted_log_probs(logits, labels)
    log_probs.sum().backward()
    assert not log_probs[~counted].any()
    assert not logits.grad[:, :-1][~counted].any()
    assert not logits.grad[:, -1].any()
    assert logits.grad[:, :-1][counted].abs().sum(-1).min() > 0


def test_labels_stay_as_they_are(logits, labels):
    before = labels.clone()
    sequence_log_probs(logits, labels)
    assert torch.equal(labels, before)
