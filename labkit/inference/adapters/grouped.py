"""Rows of one batch, each with its own adapter: y_i += (x_i A_s^T) B_s for the slot s of row i.

Papers: SGMV arXiv 2310.18547, section 4; S-LoRA arXiv 2311.03285, section 4.

Rows of one adapter are one product, whatever request they belong to. One product an adapter is the
plain way ("loop"). It is slow where each adapter has few rows, as in decoding: then the calls cost
more than the arithmetic. So adapters with about as many rows share a batched product, their rows
padded to the longest ("padded"). The rows of a long prompt are a product of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from labkit.inference.adapters.places import Place

PLANS = ("auto", "loop", "padded")
LONG = 256  # rows from which an adapter gains little from company, and padding costs


@runtime_checkable
class SlotInfo(Protocol):
    """What grouping needs to know of an adapter."""

    slot: int
    rank: int
    places: frozenset[Place]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Part:
    """Adapters whose rows are multiplied together.

    Attributes:
        index: of the G adapters in the stacks; a number where there is one.
        rank: the largest of theirs.
        places: what any of them adapts.
        rows: the rows of x and y, ascending; a slice where they lie together.
        gather: rows of x as a (G, M) grid, flat, with padding; None where `rows` is that grid, or
            where there is one adapter.
        kept: each row's place in the grid; None where it is not needed.
    """

    index: Int[Tensor, "G"] | int
    rank: int
    places: frozenset[Place]
    rows: Int[Tensor, "_"] | slice
    gather: Int[Tensor, "_"] | None
    kept: Int[Tensor, "_"] | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Grouping:
    """A step's N rows by adapter; no parts where all are the base's."""

    num_rows: int
    parts: tuple[Part, ...]


def group_rows(
    slots: Int[Tensor, "N"],
    adapters: Mapping[int, SlotInfo],
    *,
    device: torch.device,
    plan: str = "auto",
) -> Grouping:
    """Sort rows by adapter and decide which adapters share a product.

    Args:
        slots: of each row's adapter, on the CPU; 0 is the base.
        adapters: those in use, by slot.
        device: of x and y.
        plan: "loop", "padded", or "auto", which pads where that costs less than twice the rows.

    Raises:
        ValueError: the plan is unknown.
    """
    if plan not in PLANS:
        raise ValueError(f"plan={plan!r} must be one of {', '.join(PLANS)}")
    ordered, order = torch.sort(slots, stable=True)
    values, counts = torch.unique_consecutive(ordered, return_counts=True)
    segments = zip(values.tolist(), order.split(counts.tolist()), strict=True)
    together: dict[int, list[tuple[SlotInfo, Tensor]]] = {}
    for slot, rows in segments:
        if slot:
            together.setdefault(_bucket(slot, len(rows), plan), []).append((adapters[slot], rows))
    parts = tuple(_part(members, device) for members in together.values())
    return Grouping(num_rows=len(slots), parts=parts)


def add_part(
    y: Float[Tensor, "N O"],
    x: Float[Tensor, "N I"],
    A: Float[Tensor, "slots n R I"],
    Bs: list[tuple[int, slice, Float[Tensor, "slots R _"]]],
    part: Part,
) -> None:
    """Add one part's share to y, in place.

    Args:
        y: outputs of n projections side by side.
        x: their common input.
        A: the n projections' down factors.
        Bs: for each projection its number among the n, its columns of y, and its up factors.
        part: whose rows.
    """
    A = A[:, :, : part.rank]  # a stack may have fewer ranks, where this part's highest has nothing
    if isinstance(part.index, int):
        _add_one(y, x, A[part.index], [(n, at, B[part.index]) for n, at, B in Bs], part)
    else:
        _add_padded(y, x, A, Bs, part, part.index)


def _add_one(
    y: Tensor, x: Tensor, A: Tensor, Bs: list[tuple[int, slice, Tensor]], part: Part
) -> None:
    """One adapter: h = x A^T for all its projections, then y += h B for each."""
    R = A.shape[1]
    own = x[part.rows] if isinstance(part.rows, slice) else x.index_select(0, part.rows)
    h = own @ A.flatten(0, 1).t()  # (M, I) -> (M, nR)
    for n, columns, B in Bs:
        down, up = h[:, n * R : (n + 1) * R], B[:R]
        if isinstance(part.rows, slice):
            y[part.rows, columns].addmm_(down, up)
        else:
            _add_rows(y[:, columns], part.rows, down @ up)


def _add_padded(
    y: Tensor,
    x: Tensor,
    A: Tensor,
    Bs: list[tuple[int, slice, Tensor]],
    part: Part,
    index: Tensor,
) -> None:
    """G adapters of M rows each, as batched products over G."""
    G, R = len(index), A.shape[2]
    down = A.index_select(0, index).flatten(1, 2)  # (G, nR, I)
    own = x[part.rows] if part.gather is None else x.index_select(0, part.gather)
    h = torch.bmm(own.unflatten(0, (G, -1)), down.transpose(1, 2))  # (G, M, nR)
    for n, columns, B in Bs:
        mine, up = h[:, :, n * R : (n + 1) * R], B[:, :R].index_select(0, index)
        if part.kept is None:
            y[part.rows, columns].unflatten(0, (G, -1)).baddbmm_(mine, up)
        else:
            delta = torch.bmm(mine, up).flatten(0, 1).index_select(0, part.kept)
            _add_rows(y[:, columns], part.rows, delta)


def _bucket(slot: int, rows: int, plan: str) -> int:
    """Adapters of one bucket share a product: by size, within a factor of two."""
    if plan == "padded":
        return 0
    return -slot if plan == "loop" or rows >= LONG else rows.bit_length()


def _part(members: list[tuple[SlotInfo, Tensor]], device: torch.device) -> Part:
    segments = [own for _, own in members]
    rows, order = torch.cat(segments).sort()
    first, count = int(rows[0]), len(rows)
    ordered = bool((order.diff() > 0).all())
    in_one_run = int(rows[-1]) - first == count - 1
    gather = kept = None
    if len(members) > 1 and not (ordered and in_one_run and len({*map(len, segments)}) == 1):
        gather = pad_sequence(segments, batch_first=True, padding_value=first)
        sizes = torch.tensor([*map(len, segments)])
        kept = (torch.arange(gather.shape[1]) < sizes[:, None]).flatten().nonzero()[order, 0]
    index = [adapter.slot - 1 for adapter, _ in members]
    return Part(
        index=torch.tensor(index, device=device) if len(index) > 1 else index[0],
        rank=max(adapter.rank for adapter, _ in members),
        places=frozenset[Place]().union(*(adapter.places for adapter, _ in members)),
        rows=slice(first, first + count) if in_one_run else rows.to(device),
        gather=None if gather is None else gather.flatten().to(device),
        kept=None if kept is None else kept.to(device),
    )


def _add_rows(y: Tensor, rows: Tensor | slice, delta: Tensor) -> None:
    if isinstance(rows, slice):
        y[rows].add_(delta)
    else:  # index_add_ is slow on columns of a larger tensor
        y.index_copy_(0, rows, y.index_select(0, rows).add_(delta))
