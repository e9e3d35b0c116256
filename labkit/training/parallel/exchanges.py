"""Collectives that autograd can pass through: each has its conjugate as its backward.

| forward        | backward       | where                                               |
|----------------|----------------|-----------------------------------------------------|
| identity       | all-reduce     | f of Megatron: a replicated input enters the ranks  |
| all-reduce     | identity       | g of Megatron: partial sums leave them              |
| all-gather     | reduce-scatter | f with sequence parallelism                         |
| reduce-scatter | all-gather     | g with sequence parallelism                         |
| all-to-all     | all-to-all     | Ulysses, experts                                    |
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from labkit.training.parallel import collectives
from labkit.training.parallel.collectives import Group


def copy_to_ranks(x: Tensor, group: Group) -> Tensor:
    """x; backward sums the ranks' gradients. Paper: arXiv 1909.08053, section 3 (f)."""
    y: Tensor = _Copy.apply(x, group)
    return y


def sum_over_ranks(x: Tensor, group: Group) -> Tensor:
    """Sum of the ranks' x; backward hands the gradient on. Paper: arXiv 1909.08053 (g)."""
    y: Tensor = _Sum.apply(x, group)
    return y


def gather_sequence(x: Shaped[Tensor, "B Tn D"], group: Group) -> Shaped[Tensor, "B T D"]:
    """All ranks' positions in order; backward sums and splits. Paper: arXiv 2205.05198 (g)."""
    y: Tensor = _GatherSequence.apply(x, group)
    return y


def scatter_sum(x: Shaped[Tensor, "B T D"], group: Group) -> Shaped[Tensor, "B Tn D"]:
    """This rank's positions of the ranks' sum; backward gathers. Paper: arXiv 2205.05198.

    Raises:
        ValueError: the ranks do not divide the positions.
    """
    y: Tensor = _ScatterSum.apply(x, group)
    return y


def exchange_rows(x: Tensor, sent: Sequence[int], received: Sequence[int], group: Group) -> Tensor:
    """Rows of x to the ranks in turn, `sent[i]` to rank i; the rows from all ranks in turn.

    Args:
        x: sum(sent) rows, those for rank 0 first.
        sent: rows for each rank.
        received: rows from each rank.
        group: the ranks.
    """
    y: Tensor = _ExchangeRows.apply(x, tuple(sent), tuple(received), group)
    return y


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        whole = gradient.clone(memory_format=torch.contiguous_format)
        return collectives.all_reduce(whole, ctx.group), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        whole = x.clone(memory_format=torch.contiguous_format)
        return collectives.all_reduce(whole, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _GatherSequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return _gathered(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _scattered(gradient, ctx.group), None


class _ScatterSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return _scattered(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _gathered(gradient, ctx.group), None


class _ExchangeRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, sent: tuple[int, ...], received: tuple[int, ...], group: Group
    ) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return _exchanged(x, sent, received, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _exchanged(gradient, ctx.received, ctx.sent, ctx.group), None, None, None


def _gathered(x: Tensor, group: Group) -> Tensor:
    chunks = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in group.ranks]
    chunks[group.index].copy_(x)
    collectives.all_gather(chunks, group)
    return torch.cat(chunks, dim=1)


def _scattered(x: Tensor, group: Group) -> Tensor:
    if x.shape[1] % group.size:
        raise ValueError(
            f"{group.size} ranks do not divide T={x.shape[1]} positions: pad the sequences"
        )
    chunks = [c.clone(memory_format=torch.contiguous_format) for c in x.chunk(group.size, 1)]
    return collectives.reduce_scatter(chunks, group)


def _exchanged(x: Tensor, sent: tuple[int, ...], received: tuple[int, ...], group: Group) -> Tensor:
    y = x.new_empty(sum(received), *x.shape[1:])
    collectives.all_to_all(x.contiguous().split(sent), y.split(received), group)
    return y
