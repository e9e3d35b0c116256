"""Experts spread over ranks against all of them in one process."""

import pytest
import torch

from labkit.model.config import MoeConfig
from labkit.model.moe import recorded_routing
from labkit.objectives.language_modelling import cross_entropy
from labkit.training.parallel.collectives import Group
from labkit.training.parallel.expert_parallel import (
    dispatch_bytes,
    shard_experts,
    sum_replicated_gradients,
)
from tests.labkit.training.parallel import tiny

E, TOP = 6, 2
COUNT = tiny.BATCH * (tiny.LENGTH - 1)


def moe_model(factor: float | None = None):
    return tiny.tiny_model(moe=MoeConfig(num_experts=E, top_k=TOP, capacity_factor=factor))


def spread(steps: int):
    group = Group.world()
    model = shard_experts(moe_model(), group)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for step in range(steps):
        optimizer.zero_grad()
        ids = tiny.batch(step).chunk(group.size)[group.index]
        (cross_entropy(model(ids), ids)[0] / COUNT).backward()
        sum_replicated_gradients(model, group)
        optimizer.step()
    return model(tiny.batch(99)).detach(), tiny.gradients(model)


def whole_name(name: str, rank: int, n: int) -> str:
    """The name in one process of a rank's parameter: its first expert is not the layer's first."""
    parts = name.split(".")
    if "experts" in parts:
        place = parts.index("experts") + 1
        parts[place] = str(int(parts[place]) + rank * E // n)
    return ".".join(parts)


@pytest.mark.parametrize("n", [2, 3])
def test_training_equals_one_process(on_ranks, n: int) -> None:
    model = moe_model()
    expected = tiny.trained(model, lambda ps: torch.optim.SGD(ps, lr=0.2), 3)[-1]
    logits = model(tiny.batch(99)).detach()
    seen = set()
    for rank, (ours_logits, ours) in enumerate(on_ranks(n, spread, 3)):
        torch.testing.assert_close(ours_logits, logits, rtol=1e-4, atol=1e-5)
        for name, gradient in ours.items():
            whole = whole_name(name, rank, n)
            seen.add(whole)
            torch.testing.assert_close(gradient, expected[whole], rtol=1e-4, atol=2e-6)
    assert seen == expected.keys()


def counted(factor: float | None):
    group = Group.world()
    model = shard_experts(moe_model(factor), group)
    ids = tiny.batch(group.index, rows=3)
    with recorded_routing(model) as routings, torch.no_grad():
        model(ids)
    leaving, local = [0] * group.size, E // group.size
    for routing in routings:
        for rank in range(group.size):
            owned = (routing.experts // local == rank) & routing.kept
            leaving[rank] += int(owned.sum())
    dropped = sum(routing.dropped for routing in routings)
    return leaving, group.traffic.sent_bytes, dropped


@pytest.mark.parametrize("factor", [None, 0.7])
def test_bytes_follow_from_the_routing_and_dropped_tokens_stay(on_ranks, factor) -> None:
    n, layers = 3, 3
    results = on_ranks(n, counted, factor)
    counts = layers * (n - 1) * (E // n) * 8
    for rank, (leaving, sent, dropped) in enumerate(results):
        out = sum(leaving) - leaving[rank]
        back = sum(results[other][0][rank] for other in range(n) if other != rank)
        assert sent == dispatch_bytes(out, back, 24, 4) + counts
        assert (dropped > 0) == (factor is not None)
        assert sum(leaving) + dropped == layers * 3 * tiny.LENGTH * TOP


def test_refusals() -> None:
    with pytest.raises(ValueError, match="no experts to spread"):
        shard_experts(tiny.tiny_model(), Group(ranks=(0,), rank=0))
    with pytest.raises(ValueError, match="4 ranks must divide num_experts=6"):
        shard_experts(moe_model(), Group(ranks=(0, 1, 2, 3), rank=0))
