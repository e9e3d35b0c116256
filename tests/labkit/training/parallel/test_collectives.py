"""Collectives against torch.distributed's, and the bytes they send against the formula."""

import pytest
import torch
import torch.distributed as dist

from labkit.training.parallel import collectives
from labkit.training.parallel.collectives import Group


def drawn(rank: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(50 + rank))


def reduced(numel: int, maximum: bool) -> tuple[torch.Tensor, torch.Tensor, int]:
    group = Group.world()
    mine = drawn(group.rank, numel)
    oracle = mine.clone()
    dist.all_reduce(oracle, op=dist.ReduceOp.MAX if maximum else dist.ReduceOp.SUM)
    collectives.all_reduce(mine, group, torch.maximum if maximum else torch.add)
    return mine, oracle, group.traffic.sent_bytes


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_all_reduce_equals_torch_and_sends_the_formula(on_ranks, n: int) -> None:
    numel = 12 * 7
    results = on_ranks(n, reduced, numel, False)
    for ours, oracle, sent in results:
        torch.testing.assert_close(ours, oracle)
        assert torch.equal(ours, results[0][0])  # the same bits everywhere
        assert sent == collectives.all_reduce_bytes(4 * numel, n)


@pytest.mark.parametrize("numel", [1, 2, 7, 11])
def test_uneven_chunks_send_the_formula_on_average(on_ranks, numel: int) -> None:
    n = 3
    results = on_ranks(n, reduced, numel, False)
    for ours, oracle, _ in results:
        torch.testing.assert_close(ours, oracle)
    total = sum(sent for *_, sent in results)
    assert total == round(n * collectives.all_reduce_bytes(4 * numel, n))


def test_maximum(on_ranks) -> None:
    for ours, oracle, _ in on_ranks(3, reduced, 10, True):
        assert torch.equal(ours, oracle)


def scattered() -> tuple[torch.Tensor, int]:
    group = Group.world()
    chunks = list(drawn(group.rank, 3, 5, 2).unbind())
    return collectives.reduce_scatter(chunks, group), group.traffic.sent_bytes


def test_reduce_scatter_gives_each_rank_its_chunk(on_ranks) -> None:
    expected = sum(drawn(rank, 3, 5, 2) for rank in range(3))
    for rank, (chunk, sent) in enumerate(on_ranks(3, scattered)):
        torch.testing.assert_close(chunk, expected[rank])
        assert sent == 2 * 10 * 4


def gathered() -> tuple[list[torch.Tensor], int]:
    group = Group.world()
    chunks = [torch.zeros(size) for size in (4, 0, 3)]
    chunks[group.rank] = drawn(group.rank, len(chunks[group.rank]))
    collectives.all_gather(chunks, group)
    return chunks, group.traffic.messages


def test_all_gather_takes_uneven_and_empty_chunks(on_ranks) -> None:
    for chunks, messages in on_ranks(3, gathered):
        for rank, size in enumerate((4, 0, 3)):
            assert torch.equal(chunks[rank], drawn(rank, size))
        assert messages < 3


def exchanged() -> list[torch.Tensor]:
    group = Group.world()
    parts = [torch.full((group.rank + 1,), 10.0 * group.rank + i) for i in range(group.size)]
    received = [torch.empty(i + 1) for i in range(group.size)]
    collectives.all_to_all(parts, received, group)
    assert group.traffic.sent_bytes == 4 * (group.rank + 1) * (group.size - 1)
    return received


def test_all_to_all_transposes_parts_and_ranks(on_ranks) -> None:
    for rank, received in enumerate(on_ranks(3, exchanged)):
        for source, part in enumerate(received):
            assert part.tolist() == [10.0 * source + rank] * (source + 1)


def told(source: int) -> torch.Tensor:
    group = Group.world()
    return collectives.broadcast(drawn(group.rank, 6), group, source)


@pytest.mark.parametrize("source", [0, 2])
def test_broadcast(on_ranks, source: int) -> None:
    for tensor in on_ranks(3, told, source):
        assert torch.equal(tensor, drawn(source, 6))


def pairs_in_a_mesh() -> torch.Tensor:
    rank = dist.get_rank()
    across = Group(ranks=(rank % 2, rank % 2 + 2), rank=rank, tag=1)
    along = Group(ranks=(rank // 2 * 2, rank // 2 * 2 + 1), rank=rank, tag=2)
    tensor = torch.tensor([10.0**rank])
    collectives.all_reduce(tensor, across)
    return collectives.all_reduce(tensor, along)


def test_two_groups_of_a_mesh_sum_over_all(on_ranks) -> None:
    assert [t.item() for t in on_ranks(4, pairs_in_a_mesh)] == [1111.0] * 4


def test_refusals() -> None:
    with pytest.raises(ValueError, match="rank=5 is not a member"):
        Group(ranks=(0, 1), rank=5)
    with pytest.raises(ValueError, match="must be different"):
        Group(ranks=(0, 0), rank=0)
    alone = Group(ranks=(0,), rank=0)
    with pytest.raises(ValueError, match="not contiguous"):
        collectives.all_reduce(torch.zeros(3, 5).T, alone)
    with pytest.raises(ValueError, match="2 chunks for 1 ranks"):
        collectives.reduce_scatter([torch.zeros(1), torch.zeros(1)], alone)
