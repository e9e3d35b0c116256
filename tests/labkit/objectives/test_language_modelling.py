"""Cross-entropy against torch's own and against a float64 loop."""

import math

import pytest
import torch
from torch.nn import functional

from labkit.objectives.language_modelling import (
    IGNORE_INDEX,
    cross_entropy,
    shift_labels,
    token_log_probs,
)

B, T, V = 3, 11, 37


@pytest.fixture
def logits(gen):
    return 4.0 * torch.randn(B, T, V, generator=gen)


@pytest.fixture
def labels(gen):
    labels = torch.randint(0, V, (B, T), generator=gen)
    labels[0, 7:] = IGNORE_INDEX
    labels[1, :4] = IGNORE_INDEX
    return labels


def brute_force(logits, labels):
    """The definition, one position at a time, in float64."""
    total, count = 0.0, 0
    for b in range(labels.shape[0]):
        for t in range(labels.shape[1] - 1):
            target = int(labels[b, t + 1])
            if target == IGNORE_INDEX:
                continue
            scores = logits[b, t].double()
            total += math.log(sum(math.exp(s) for s in scores.tolist())) - scores[target].item()
            count += 1
    return total, count


def test_equals_the_definition(logits, labels):
    loss_sum, tokens = cross_entropy(logits, labels)
    expected, count = brute_force(logits, labels)
    assert tokens == count == 6 + 7 + 10
    assert loss_sum.item() == pytest.approx(expected, rel=1e-6)


def test_equals_torch_value_and_gradient(logits, labels):
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss_sum, tokens = cross_entropy(ours, labels)
    mean = functional.cross_entropy(theirs[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(loss_sum / tokens, mean, rtol=1e-6, atol=0)
    (loss_sum / tokens).backward()
    mean.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9)


def test_half_precision_logits_are_summed_in_float32(logits, labels):
    loss_sum, _ = cross_entropy(logits.bfloat16(), labels)
    expected, _ = brute_force(logits.bfloat16(), labels)
    assert loss_sum.dtype == torch.float32
    assert loss_sum.item() == pytest.approx(expected, rel=1e-6)


def test_a_large_shift_of_the_logits_changes_nothing(logits, labels):
    plain, _ = cross_entropy(logits, labels)
    shifted, _ = cross_entropy(logits + 1000.0, labels)
    torch.testing.assert_close(shifted, plain, rtol=1e-4, atol=0)


def test_nothing_to_predict_is_zero_and_has_a_zero_gradient(logits):
    logits.requires_grad_()
    loss_sum, tokens = cross_entropy(logits, torch.full((B, T), IGNORE_INDEX))
    loss_sum.backward()
    assert (loss_sum.item(), tokens) == (0.0, 0)
    assert not logits.grad.any()


def test_the_first_label_is_never_predicted(logits, labels):
    other = labels.clone()
    other[:, 0] = 5
    assert cross_entropy(logits, other)[0] == cross_entropy(logits, labels)[0]


def test_labels_move_one_to_the_left_and_the_input_stays(labels):
    before = labels.clone()
    shifted = shift_labels(labels)
    assert torch.equal(shifted[:, :-1], labels[:, 1:])
    assert (shifted[:, -1] == IGNORE_INDEX).all()
    assert torch.equal(labels, before)


def test_token_log_probs_sum_to_the_loss(logits, gen):
    ids = torch.randint(0, V, (B, T), generator=gen)
    log_probs = token_log_probs(logits, ids)
    assert log_probs.shape == (B, T - 1)
    loss_sum, tokens = cross_entropy(logits, ids)
    assert tokens == B * (T - 1)
    torch.testing.assert_close(-log_probs.sum(), loss_sum, rtol=1e-6, atol=0)
    one = torch.log_softmax(logits[2, 4].double(), -1)[ids[2, 5]]
    assert log_probs[2, 4].item() == pytest.approx(one.item(), rel=1e-5)
