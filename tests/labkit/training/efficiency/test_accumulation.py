"""Several small batches and one large one: gradients, and 50 steps without signed drift."""

import copy
import itertools

import pytest
import torch
from torch import Tensor

from labkit.data.batch import IGNORE_INDEX, TokenBatch
from labkit.model.minillm import MiniLLM
from labkit.training.efficiency import accumulation
from labkit.training.efficiency.loss_scaling import LossScaler, LossScalingConfig
from labkit.training.forward import causal_lm_loss

LENGTHS = (23, 5, 17, 3, 29, 11, 2, 13)


def ragged(seed: int = 3) -> TokenBatch:
    """Right-padded rows of very unequal lengths."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 97, (len(LENGTHS), max(LENGTHS)), generator=generator)
    labels = ids.clone()
    for row, length in enumerate(LENGTHS):
        labels[row, length:] = IGNORE_INDEX
    return TokenBatch(ids=ids, labels=labels)


def gradients(model: MiniLLM) -> list[Tensor]:
    found = [p.grad for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_gradients_are_the_large_batchs(tiny_model: MiniLLM, rows: int) -> None:
    pieces = list(accumulation.split(ragged(), rows))
    loss_nats, tokens = accumulation.accumulate(tiny_model, pieces)
    ours = gradients(tiny_model)
    loss_sum, count = causal_lm_loss(tiny_model, ragged())
    (loss_sum / count).backward()
    assert tokens == count == sum(LENGTHS) - len(LENGTHS)
    assert loss_nats == pytest.approx((loss_sum / count).item(), rel=1e-6)
    for x, y in zip(ours, gradients(tiny_model), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-7)


def train(
    model: MiniLLM, rows: int, mean_of_means: bool = False
) -> tuple[list[float], list[float]]:
    """Losses and gradient norms of 50 steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses, norms = [], []
    for step in range(50):
        optimizer.zero_grad(set_to_none=True)
        pieces = list(accumulation.split(ragged(step % 5), rows))
        if mean_of_means:
            for piece in pieces:
                loss_sum, count = causal_lm_loss(model, piece)
                (loss_sum / count / len(pieces)).backward()
            with torch.no_grad():
                loss_sum, count = causal_lm_loss(model, ragged(step % 5))
            losses.append(loss_sum.item() / count)
        else:
            losses.append(accumulation.accumulate(model, pieces)[0])
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
    return losses, norms


def test_fifty_steps_do_not_drift_and_the_mean_of_means_does(tiny_model: MiniLLM) -> None:
    """Bounds: losses 1e-3, norms 1e-1, signed drift 1e-5 and 1e-3."""
    one, norms_one = train(copy.deepcopy(tiny_model), rows=8)
    many, norms_many = train(copy.deepcopy(tiny_model), rows=1)
    assert max(abs(a - b) for a, b in zip(many, one, strict=True)) < 1e-3
    assert max(abs(a - b) for a, b in zip(norms_many, norms_one, strict=True)) < 1e-1
    assert abs(accumulation.signed_drift(many, one)) < 1e-5
    assert abs(accumulation.signed_drift(norms_many, norms_one)) < 1e-3
    wrong, norms_wrong = train(tiny_model, rows=1, mean_of_means=True)
    assert abs(accumulation.signed_drift(wrong, one)) > 1e-3
    assert abs(accumulation.signed_drift(norms_wrong, norms_one)) > 1e-2


def test_weights_turn_means_into_the_mean_over_tokens(tiny_model: MiniLLM) -> None:
    pieces = list(accumulation.split(ragged(), 3))
    with torch.no_grad():
        pairs = [causal_lm_loss(tiny_model, piece) for piece in pieces]
        total, count = causal_lm_loss(tiny_model, ragged())
    weights = accumulation.token_weights([count for _, count in pairs])
    mean = sum(w * (loss / n).item() for w, (loss, n) in zip(weights, pairs, strict=True))
    assert mean == pytest.approx((total / count).item(), rel=1e-6)
    assert accumulation.token_weights([3, 0, 5]) == [3 / 8, 0, 5 / 8]


def test_a_scaled_loss_scales_gradients_and_not_the_report(tiny_model: MiniLLM) -> None:
    pieces = list(accumulation.split(ragged(), 2))
    plain, _ = accumulation.accumulate(tiny_model, pieces)
    expected = gradients(tiny_model)
    scaler = LossScaler(LossScalingConfig(initial_scale=256.0))
    scaled, _ = accumulation.accumulate(tiny_model, pieces, scaled=scaler.scaled)
    assert scaled == plain
    for x, y in zip(gradients(tiny_model), expected, strict=True):
        torch.testing.assert_close(x, 256 * y, rtol=1e-5, atol=0)


def test_split_cuts_common_padding_and_loses_no_label() -> None:
    pieces = list(accumulation.split(ragged(), 3))
    assert [tuple(piece.ids.shape) for piece in pieces] == [(3, 23), (3, 29), (2, 13)]
    counts = [accumulation.predicted_tokens(piece) for piece in pieces]
    assert counts == [23 + 5 + 17 - 3, 3 + 29 + 11 - 3, 2 + 13 - 2]


def test_a_micro_batch_without_tokens_adds_nothing(tiny_model: MiniLLM) -> None:
    pieces = list(accumulation.split(ragged(), 3))
    empty = TokenBatch(ids=pieces[0].ids, labels=torch.full_like(pieces[0].labels, IGNORE_INDEX))
    plain = accumulation.accumulate(tiny_model, pieces)
    expected = gradients(tiny_model)
    assert accumulation.accumulate(tiny_model, [pieces[0], empty, *pieces[1:]]) == plain
    assert all(torch.equal(x, y) for x, y in zip(gradients(tiny_model), expected, strict=True))
    with pytest.raises(ValueError, match="no token to predict"):
        accumulation.accumulate(tiny_model, [empty])


def test_refusals(tiny_model: MiniLLM) -> None:
    batch = ragged()
    accumulation.accumulate(tiny_model, [batch])
    with pytest.raises(ValueError, match="gradients are left from before"):
        accumulation.accumulate(tiny_model, [batch])
    tiny_model.zero_grad()
    with pytest.raises(ValueError, match="the loss counted 1 tokens where 95 have a label"):
        accumulation.accumulate(tiny_model, [batch], loss=lambda m, b: (causal_lm_loss(m, b)[0], 1))
    packed = TokenBatch(ids=batch.ids, labels=batch.labels, document_ids=batch.ids)
    with pytest.raises(ValueError, match="packed"):
        next(accumulation.split(packed, 2))
    with pytest.raises(ValueError, match="rows=0"):
        next(accumulation.split(batch, 0))
    for ours, theirs in itertools.product(([], [1.0]), ([], [1.0, 2.0])):
        with pytest.raises(ValueError, match="cannot be compared"):
            accumulation.signed_drift(ours, theirs)
    with pytest.raises(ValueError, match="no token"):
        accumulation.token_weights([0, 0])
