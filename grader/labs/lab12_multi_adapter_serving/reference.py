"""labkit's adapters in the shapes that lab 12's exercises ask for; the source of expected values.

Batching by a clock is written from its definition, since labkit's engine batches step by step.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from grader.labs.lab12_multi_adapter_serving.endpoint import handle
from labkit.inference.adapters.errors import UnknownAdapterError
from labkit.inference.adapters.grouped import add_part, group_rows
from labkit.inference.adapters.names import BASE
from labkit.inference.adapters.places import Place
from labkit.inference.adapters.roster import Entry, Roster

Factors = tuple[Tensor, Tensor, float]
Server = Callable[[list[Any]], list[Tensor]]
PLACE = Place(0, "q_proj")


def adapter_costs(
    shapes: list[tuple[int, int]],
    num_layers: int,
    rank: int,
    itemsize: int,
    base_bytes: int,
    memory_bytes: int,
    distinct: int,
) -> tuple[int, int, float, float, int]:
    """By counting the entries of every factor."""
    numbers = sum(
        torch.empty(rank, i, device="meta").numel() + torch.empty(o, rank, device="meta").numel()
        for _ in range(num_layers)
        for i, o in shapes
    )
    one, own = numbers * itemsize, sum(i * o for i, o in shapes)
    fit = 0
    while base_bytes + (fit + 1) * one <= memory_bytes:
        fit += 1
    highest = 0
    while (highest + 1) * sum(i + o for i, o in shapes) <= own:
        highest += 1
    read = (base_bytes + distinct * one) / (distinct * base_bytes)
    return one, fit, read, numbers / (num_layers * own), highest


class AdapterManager:
    """labkit's roster, with the numbers of one manager, its own limit, and eviction."""

    def __init__(self, max_adapters: int) -> None:
        self._roster, self._max = Roster(max_adapters + 1), max_adapters
        self._uids: dict[int, Entry] = {}
        self._uses: list[Entry] = []

    def mount(self, stem: str) -> str:
        entries = self._roster.entries
        live = [e for e in entries if e.state == "live" and not e.requests]
        going = [e for e in live if e.stem == stem]
        if len(entries) - len(going) >= self._max:
            idle = [e for e in self._uses if e in live and e not in going]
            if not idle:
                raise OverflowError("every adapter has requests")
            self._roster.retire(idle[0].name)
        entry = self._roster.reserve(stem, 1, frozenset(), keep_older=False)
        self._roster.publish(entry, keep_older=False)
        self._uids[len(self._uids) + 1] = entry
        self._use(entry)
        return entry.name

    def unmount(self, name: str) -> bool:
        return self._roster.retire(self._find(name).name)

    def alias(self, alias: str, name: str) -> None:
        self._roster.alias(alias, self._find(name).name)

    def acquire(self, name: str) -> int:
        if name == BASE:
            return 0
        entry = self._roster.acquire(self._find(name).name)
        self._use(entry)
        return next(uid for uid, mounted in self._uids.items() if mounted is entry)

    def release(self, uid: int) -> None:
        if uid == 0:
            return
        entry = self._uids.get(uid)
        if entry is None or entry.requests == 0:
            raise ValueError(f"{uid} has no request")
        self._roster.release(entry.slot)

    def names(self) -> list[str]:
        return sorted(self._roster.names)

    def draining(self) -> list[str]:
        return sorted(e.name for e in self._roster.entries if e.state == "draining")

    def _find(self, name: str) -> Entry:
        try:
            return self._roster.find(name)
        except UnknownAdapterError as error:
            raise KeyError(name) from error

    def _use(self, entry: Entry) -> None:
        self._uses = [e for e in self._uses if e is not entry] + [entry]


def add_grouped(y: Tensor, x: Tensor, adapters: Sequence[Factors], slots: Tensor) -> Tensor:
    """labkit's parts, one an adapter."""
    result = y.clone()
    ranks = {
        slot: Entry("a", 1, slot, slot, len(A), frozenset({PLACE}))
        for slot, (A, _, _) in enumerate(adapters, 1)
    }
    for part in group_rows(slots, ranks, device=y.device, plan="loop").parts:
        assert isinstance(part.index, int)
        A, B, scaling = adapters[part.index]
        up = (scaling * B).t()[None]
        add_part(result, x, A[None, None], [(0, slice(None), up)], replace(part, index=0))
    return result


def fuse_projections(
    parts: Sequence[Factors | None], widths: Sequence[int]
) -> tuple[Tensor, Tensor, list[tuple[int, int, int, int]]]:
    """torch's own block diagonal, of empty blocks too."""
    known = next(part for part in parts if part is not None)
    none = known[0][:0], 0.0
    full = [
        (none[0], torch.zeros(O, 0)) if part is None else (part[0], part[2] * part[1])
        for part, O in zip(parts, widths, strict=True)  # noqa: E741
    ]
    blocks, r, o = [], 0, 0
    for A, B in full:
        blocks.append((r, r + len(A), o, o + len(B)))
        r, o = r + len(A), o + len(B)
    return torch.cat([A for A, _ in full]), torch.block_diag(*(B for _, B in full)), blocks


def plan_batches(
    arrivals_ms: list[int],
    adapters: list[int],
    max_batch: int,
    max_delay_ms: int,
    max_adapters: int,
    batch_ms: int,
    row_ms: int,
) -> list[tuple[int, list[int]]]:
    """Millisecond by millisecond, asking at each whether a batch may start."""
    left, busy_until, now = list(range(len(arrivals_ms))), 0, 0
    batches = []
    while left:
        here = [n for n in left if arrivals_ms[n] <= now]
        batch: list[int] = []
        for n in here:
            distinct = {adapters[m] for m in [*batch, n]} - {0}
            if len(distinct) <= max_adapters and len(batch) < max_batch:
                batch.append(n)
        waited = bool(here) and now - arrivals_ms[here[0]] >= max_delay_ms
        if now >= busy_until and (waited or len(batch) == max_batch):
            batches.append((now, batch))
            left = [n for n in left if n not in batch]
            busy_until = now + batch_ms + row_ms * len(batch)
        now += 1
    return batches


def diagnose(server: Server, width: int) -> str:
    """Each fault by a script of its own, against labkit's grouped product."""
    gen = torch.Generator().manual_seed(0)
    x, other = torch.randn(2, 3, width, generator=gen)
    A, new_A = torch.randn(2, 2, width, generator=gen)
    B = torch.randn(width, 2, generator=gen)
    mount, reload = ("mount", "a", A, B, 6.0), ("mount", "a", new_A, B, 6.0)
    ask, base = ("ask", "a", x), ("ask", BASE, other)

    def right(x: Tensor, A: Tensor) -> Tensor:
        return add_grouped(x, x, [(A, B, 3.0)], torch.ones(len(x), dtype=torch.long))

    def same(got: Tensor, expected: Tensor) -> bool:
        return torch.allclose(got, expected, atol=1e-4)

    if not same(server([mount, ask])[0], right(x, A)):
        return "no_scaling"
    if not same(server([mount, ask, base, ask])[1], other):
        return "leaks"
    if not same(server([mount, ask, reload, ("run",)])[0], right(x, A)):
        return "late_name"
    again = server([mount, ask, ("run",), reload, ask])[1]
    return "healthy" if same(again, right(x, new_A)) else "stale_prefix"


IMPLEMENTATIONS: dict[str, Any] = {
    "adapter_costs": adapter_costs,
    "adapter_manager": AdapterManager,
    "add_grouped": add_grouped,
    "fuse_projections": fuse_projections,
    "plan_batches": plan_batches,
    "handle": handle,
    "diagnose": diagnose,
}
