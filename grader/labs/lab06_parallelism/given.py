"""Lab 06's ranks: threads that share nothing but messages, all of them counted. Torch only."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from grader.checks.explain import ContractError


class Wires:
    """Messages on their way between n ranks."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._changed = threading.Condition()
        self._boxes: dict[tuple[int, int], deque[Tensor]] = {}
        self._waits_for: dict[int, int] = {}
        self._alive = n

    def put(self, source: int, to: int, tensor: Tensor) -> None:
        """A copy of the tensor goes on its way."""
        with self._changed:
            self._box(source, to).append(tensor.detach().clone())
            self._changed.notify_all()

    def take(self, rank: int, source: int) -> Tensor:
        """The next message from `source`; an error on all waiting ranks if none can ever come."""
        with self._changed:
            box = self._box(source, rank)
            self._waits_for[rank] = source
            self._changed.notify_all()
            self._changed.wait_for(lambda: box or self._stuck())
            if not box:
                raise _StuckError(f"rank {rank} of {self.n} waits for a message from rank {source}")
            del self._waits_for[rank]
            return box.popleft()

    def leave(self, rank: int) -> None:
        """The rank has ended, for whatever reason."""
        with self._changed:
            self._alive -= 1
            self._waits_for.pop(rank, None)
            self._changed.notify_all()

    def _box(self, source: int, to: int) -> "deque[Tensor]":
        return self._boxes.setdefault((source, to), deque())

    def _stuck(self) -> bool:
        """Whether every rank that is left waits, and no message is under way to any of them."""
        full = any(self._box(source, rank) for rank, source in self._waits_for.items())
        return len(self._waits_for) == self._alive and not full


class _StuckError(ContractError):
    """A rank waits for ever, which may only follow from what went wrong on another one."""

    def __init__(self, text: str) -> None:
        super().__init__(f"{text}, and nobody will ever send it: what did the other ranks do?")


class Rank:
    """One of n ranks, and what it has sent.

    Attributes:
        sent: (to whom, bytes) of each message.
        reduced: How many numbers each all-reduce had.
    """

    def __init__(self, index: int, wires: Wires) -> None:
        self.index, self._wires = index, wires
        self.sent: list[tuple[int, int]] = []
        self.reduced: list[int] = []

    def send(self, tensor: Tensor, to: int) -> None:
        """Hand a message to rank `to`, without waiting."""
        _require_tensor("send", tensor)
        self._require_other("send", to)
        self.sent.append((to, tensor.numel() * tensor.element_size()))
        self._wires.put(self.index, to, tensor)

    def receive(self, source: int) -> Tensor:
        """Wait for the next message from rank `source`."""
        self._require_other("receive", source)
        return self._wires.take(self.index, source)

    def all_reduce(self, tensor: Tensor, op: str = "sum") -> Tensor:
        """The "sum" or "max" of all ranks' tensors, the same on each; it carries no gradient."""
        _require_tensor("all_reduce", tensor)
        if op not in ("sum", "max"):
            raise ContractError(f'all_reduce: expected op "sum" or "max", got {op!r}')
        self.reduced.append(tensor.numel())
        others = [rank for rank in range(self._wires.n) if rank != self.index]
        for rank in others:
            self._wires.put(self.index, rank, tensor)
        parts = {rank: self._wires.take(self.index, rank) for rank in others}
        parts[self.index] = tensor.detach().clone()
        if len({(part.shape, part.dtype) for part in parts.values()}) > 1:
            shapes = {rank: tuple(parts[rank].shape) for rank in sorted(parts)}
            raise ContractError(f"all_reduce: the ranks' shapes or dtypes differ: {shapes}")
        stack = torch.stack([parts[rank] for rank in sorted(parts)])
        return stack.sum(0) if op == "sum" else stack.amax(0)

    def _require_other(self, function: str, rank: Any) -> None:
        if type(rank) is not int or not 0 <= rank < self._wires.n or rank == self.index:
            n, own = self._wires.n, self.index
            raise ContractError(
                f"rank {own} calls {function} with rank {rank!r}: expected another of 0 to {n - 1}"
            )


def on_ranks(n: int, program: Callable[[Rank], Any]) -> tuple[list[Any], list[Rank]]:
    """Run a program on n ranks at once.

    Returns:
        What it returned on each rank, and the ranks with their counts.

    Raises:
        Exception: That of the lowest rank that erred by itself, else of the lowest one that waits
            for ever. Which rank came first by the clock does not change what a learner is told.
    """
    wires = Wires(n)
    ranks = [Rank(index, wires) for index in range(n)]
    results: list[Any] = [None] * n
    errors: dict[int, BaseException] = {}

    def live(rank: Rank) -> None:
        try:
            results[rank.index] = program(rank)
        except BaseException as error:
            errors[rank.index] = error
        finally:
            wires.leave(rank.index)

    threads = [threading.Thread(target=live, args=(rank,), daemon=True) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        first = min(errors, key=lambda rank: (isinstance(errors[rank], _StuckError), rank))
        raise errors[first]
    return results, ranks


def _require_tensor(function: str, tensor: Any) -> None:
    if not isinstance(tensor, Tensor):
        raise ContractError(f"{function}: expected a tensor, got {type(tensor).__name__}")
