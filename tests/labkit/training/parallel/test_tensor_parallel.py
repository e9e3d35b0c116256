"""Tensor and sequence parallelism against one process: logits, gradients, bytes, refusals."""

import pytest
import torch
from torch import Tensor

from labkit.model.config import MoeConfig
from labkit.objectives.language_modelling import IGNORE_INDEX, cross_entropy
from labkit.training.parallel.collectives import Group, all_reduce_bytes
from labkit.training.parallel.tensor_parallel import (
    column_linear,
    shard,
    stream_bytes,
    sum_norm_gradients,
)
from labkit.training.parallel.vocabulary import vocabulary_cross_entropy
from tests.labkit.training.parallel import tiny

LR, STEPS, T = 0.3, 3, 12  # 2, 3 and 4 divide T


def labels_of(ids: Tensor) -> Tensor:
    return ids.where(ids % 5 != 0, IGNORE_INDEX)


def trained_in_parts(changes: dict, sequence: bool):
    group = Group.world()
    model = shard(tiny.tiny_model(**changes), group, sequence=sequence)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    sent = []
    for step in range(STEPS):
        group.traffic.reset()
        optimizer.zero_grad()
        ids = tiny.batch(step, length=T)
        loss, count = vocabulary_cross_entropy(model(ids), labels_of(ids), 97, group)
        (loss / count).backward()
        sent.append(group.traffic.sent_bytes)
        if sequence:
            sum_norm_gradients(model, group)
        optimizer.step()
    found = tiny.gradients(model).items()
    named = {name.replace(".norm.weight", ".weight"): gradient for name, gradient in found}
    return loss.item(), model(tiny.batch(99, length=T)).detach(), named, sent


def part_of(name: str, whole: Tensor, rank: int, n: int) -> Tensor:
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        return whole.chunk(n, 1)[rank]
    return whole if whole.ndim == 1 else whole.tensor_split(n)[rank]


def one_process(changes: dict):
    model = tiny.tiny_model(**changes)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for step in range(STEPS):
        optimizer.zero_grad()
        ids = tiny.batch(step, length=T)
        loss, count = cross_entropy(model(ids), labels_of(ids))
        (loss / count).backward()
        optimizer.step()
    return loss.item(), model(tiny.batch(99, length=T)).detach(), tiny.gradients(model)


CASES = [
    (2, {}, False),
    (2, {}, True),
    (3, {"num_kv_heads": 3, "ffn_width": 39, "tie_embeddings": False}, False),
    (3, {"num_kv_heads": 3, "ffn_width": 39, "tie_embeddings": False}, True),
]


@pytest.mark.parametrize(("n", "changes", "sequence"), CASES)
def test_training_equals_one_process(on_ranks, n: int, changes: dict, sequence: bool) -> None:
    expected_loss, expected_logits, expected = one_process(changes)
    results = on_ranks(n, trained_in_parts, changes, sequence)
    logits = torch.cat([r[1] for r in results], dim=-1)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-4, atol=1e-5)
    for rank, (loss, _, ours, _) in enumerate(results):
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert ours.keys() == expected.keys()
        for name, gradient in expected.items():
            part = part_of(name, gradient, rank, n)
            torch.testing.assert_close(ours[name], part, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("sequence", [False, True])
def test_bytes_are_the_streams_and_three_scalars_a_token(on_ranks, sequence: bool) -> None:
    stream = stream_bytes(tiny.BATCH, T, 24, 3, 2, 4)
    loss = 3 * all_reduce_bytes(4 * tiny.BATCH * T, 2)
    for *_, sent in on_ranks(2, trained_in_parts, {}, sequence):
        assert sent == [stream + loss] * STEPS


def lost(logits: Tensor, labels: Tensor):
    group = Group.world()
    part = logits.tensor_split(group.size, -1)[group.index].clone().requires_grad_()
    loss, count = vocabulary_cross_entropy(part, labels, logits.shape[-1], group)
    loss.backward()
    return loss.detach(), count, part.grad


def test_cross_entropy_of_large_logits_is_exact(on_ranks, gen: torch.Generator) -> None:
    logits = (torch.randn(3, 5, 97, generator=gen) * 40 + 90).requires_grad_()
    labels = labels_of(torch.randint(0, 97, (3, 5), generator=gen))
    expected, count = cross_entropy(logits, labels)
    expected.backward()
    assert logits.grad is not None
    results = on_ranks(4, lost, logits.detach(), labels)
    torch.testing.assert_close(torch.cat([r[2] for r in results], -1), logits.grad)
    for loss, n, _ in results:
        torch.testing.assert_close(loss, expected.detach())
        assert n == count


def test_a_rank_holds_its_rows() -> None:
    group = Group(ranks=(0, 1, 2), rank=1)
    linear = torch.nn.Linear(5, 7, bias=False)
    assert torch.equal(column_linear(linear, group).weight, linear.weight[3:5])


def test_refusals() -> None:
    two, three = Group(ranks=(0, 1), rank=0), Group(ranks=(0, 1, 2), rank=0)
    with pytest.raises(ValueError, match="3 ranks must divide num_kv_heads=2"):
        shard(tiny.tiny_model(), three)
    with pytest.raises(ValueError, match="post-norm"):
        shard(tiny.tiny_model(norm_position="post"), two)
    with pytest.raises(ValueError, match="moe=MoeConfig"):
        shard(tiny.tiny_model(moe=MoeConfig(num_experts=3)), two)
    with pytest.raises(ValueError, match="do not divide T=9"):
        shard(tiny.tiny_model(), two, sequence=True)(tiny.batch(0, length=9))
