"""Collective operations from send and receive alone, every byte counted.

A ring costs each of n ranks 2 (n - 1) / n times the tensor's size for an all-reduce, whatever n:
a reduce-scatter and an all-gather of (n - 1) / n each. All methods of this package talk through
the `Group` here, so that its `Traffic` is what they send.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

Combine = Callable[[Tensor, Tensor], Tensor]


@dataclass(slots=True)
class Traffic:
    """What this rank has sent: bytes of payload, and messages."""

    sent_bytes: int = 0
    messages: int = 0

    def count(self, tensor: Tensor) -> None:
        """Adds one message."""
        self.sent_bytes += tensor.numel() * tensor.element_size()
        self.messages += 1

    def reset(self) -> None:
        """Back to nothing sent."""
        self.sent_bytes, self.messages = 0, 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Some of the processes, in an order that makes them a ring.

    Attributes:
        ranks: global ranks of the members; this process must be one of them.
        rank: this process's global rank.
        tag: sets this group's messages apart from another's between the same two processes.
        traffic: counts what this rank sends.
    """

    ranks: tuple[int, ...]
    rank: int
    tag: int = 0
    traffic: Traffic = field(default_factory=Traffic)

    def __post_init__(self) -> None:
        if self.rank not in self.ranks:
            raise ValueError(f"rank={self.rank} is not a member of the group {self.ranks}")
        if len(set(self.ranks)) < len(self.ranks):
            raise ValueError(f"ranks={self.ranks} must be different from each other")

    @classmethod
    def world(cls) -> "Group":
        """All processes of the default process group."""
        return cls(ranks=tuple(range(dist.get_world_size())), rank=dist.get_rank())

    @property
    def size(self) -> int:
        """n, the members."""
        return len(self.ranks)

    @property
    def index(self) -> int:
        """This process's place in the ring, 0 to n - 1."""
        return self.ranks.index(self.rank)

    def send(self, tensor: Tensor, to: int, tag: int = 0) -> "dist.Work | None":
        """Starts to send; `to` is a place in the ring. Wait on what comes back; None: no bytes."""
        if not tensor.numel():
            return None
        self.traffic.count(tensor)
        return dist.isend(tensor.contiguous(), self.ranks[to % self.size], tag=self.tag + tag)

    def receive(self, into: Tensor, source: int, tag: int = 0) -> "dist.Work | None":
        """Starts to receive into a contiguous tensor; an empty one expects no message."""
        if not into.numel():
            return None
        return dist.irecv(into, self.ranks[source % self.size], tag=self.tag + tag)

    def shift(self, out: Tensor, into: Tensor, step: int = 1) -> None:
        """Sends `out` to the rank `step` places on, and receives from the one as far behind."""
        finish(self.send(out, self.index + step), self.receive(into, self.index - step))


def finish(*works: "dist.Work | None") -> None:
    """Waits for messages that `Group.send` and `Group.receive` started."""
    for work in works:
        if work is not None:
            work.wait()


def reduce_scatter(
    chunks: Sequence[Tensor], group: Group, combine: Combine = torch.add
) -> Shaped[Tensor, "..."]:
    """Ring reduce-scatter, in place: rank r's chunk r becomes the sum of all ranks' chunks r.

    Chunk c starts at rank c + 1 and goes once around; each rank adds its own to what comes in.
    The other chunks are left as partial sums. Sends all chunks of this rank but one.

    Args:
        chunks: n contiguous tensors, of the same sizes on every rank.
        group: the ring.
        combine: how two chunks become one.

    Returns:
        This rank's chunk.

    Raises:
        ValueError: there are not n chunks.
    """
    n, r = group.size, group.index
    _check_chunks(chunks, n)
    for step in range(n - 1):
        mine = chunks[(r - step - 2) % n]
        incoming = torch.empty_like(mine)
        group.shift(chunks[(r - step - 1) % n], incoming)
        mine.copy_(combine(mine, incoming))
    return chunks[r]


def all_gather(chunks: Sequence[Tensor], group: Group) -> None:
    """Ring all-gather, in place: chunk r, which rank r holds, reaches every rank.

    Raises:
        ValueError: there are not n chunks.
    """
    n, r = group.size, group.index
    _check_chunks(chunks, n)
    for step in range(n - 1):
        group.shift(chunks[(r - step) % n], chunks[(r - step - 1) % n])


def all_reduce(tensor: Tensor, group: Group, combine: Combine = torch.add) -> Tensor:
    """Sum over ranks, in place: reduce-scatter, then all-gather of n near-equal chunks.

    Every rank ends with the same bits, since each sum is computed once.

    Returns:
        The same tensor.

    Raises:
        ValueError: the tensor is not contiguous.
    """
    if not tensor.is_contiguous():
        raise ValueError(f"strides {tensor.stride()} are not contiguous: pass .contiguous()")
    chunks = tensor.detach().view(-1).tensor_split(group.size)
    reduce_scatter(chunks, group, combine)
    all_gather(chunks, group)
    return tensor


def all_to_all(parts: Sequence[Tensor], received: Sequence[Tensor], group: Group) -> None:
    """Part i goes to rank i; `received[i]` takes what rank i sends here.

    Own part is copied, so that (n - 1) / n of the data travels where parts are equal.

    Raises:
        ValueError: there are not n parts, or not n places to receive in.
    """
    n, r = group.size, group.index
    _check_chunks(parts, n)
    _check_chunks(received, n)
    received[r].copy_(parts[r])
    works = [group.receive(received[i], i) for i in range(n) if i != r]
    works += [group.send(parts[i], i) for i in range(n) if i != r]
    finish(*works)


def broadcast(tensor: Tensor, group: Group, source: int = 0) -> Tensor:
    """Fills the tensor with that of place `source`, handed on around the ring.

    Returns:
        The same tensor.
    """
    behind = (group.index - source) % group.size
    if behind:
        finish(group.receive(tensor, group.index - 1))
    if behind < group.size - 1:
        finish(group.send(tensor, group.index + 1))
    return tensor


def all_reduce_bytes(size: int, n: int) -> float:
    """2 (n - 1) / n * size: what each rank sends in a ring all-reduce.

    Exact where n divides the elements, and always the mean over ranks.
    """
    return 2 * (n - 1) / n * size


def _check_chunks(chunks: Sequence[Tensor], n: int) -> None:
    if len(chunks) != n:
        raise ValueError(f"{len(chunks)} chunks for {n} ranks: give one for each rank")
