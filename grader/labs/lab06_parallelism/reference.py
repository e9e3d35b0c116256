"""labkit's parallelism in the shapes that lab 06 asks for; the source of expected values.

The split layer and the split loss get one `all_reduce` and no group of processes, so they stand
here once more; tests hold them against one process.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labkit.objectives.language_modelling import IGNORE_INDEX
from labkit.training.parallel import collectives, data_parallel, schedules, zero
from labkit.training.parallel.collectives import Group

Send = Callable[[Tensor, int], None]
Receive = Callable[[int], Tensor]
AllReduce = Callable[..., Tensor]
Step = Callable[[Tensor, Tensor, Tensor], Tensor]
LR = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class _Downwards(Group):
    """labkit's ring seen in a mirror: its places are ranks n, n - 1, ..., 1, and n is 0."""

    hand_down: Send
    take: Receive

    def shift(self, out: Tensor, into: Tensor, step: int = 1) -> None:
        self.hand_down(out, self.ranks[(self.index + step) % self.size])
        into.copy_(self.take(self.ranks[(self.index - step) % self.size]))


def ring_all_reduce(
    x: Tensor, rank: int, n: int, send: Send, receive: Receive
) -> tuple[Tensor, Tensor]:
    """labkit's reduce-scatter and all-gather over the mirrored ring."""
    places = tuple(-place % n for place in range(n))
    ring = _Downwards(ranks=places, rank=rank, hand_down=send, take=receive)
    chunks = list(x.clone().flatten().tensor_split(n))
    mirrored = [chunks[place] for place in places]
    own = collectives.reduce_scatter(mirrored, ring).clone()
    collectives.all_gather(mirrored, ring)
    return own, torch.cat(chunks).view_as(x)


def bucket_timeline(
    sizes: Sequence[int],
    ready_ms: Sequence[float],
    bucket_bytes: int,
    n: int,
    latency_ms: float,
    bytes_per_ms: float,
) -> tuple[list[list[int]], list[tuple[float, float]]]:
    """labkit's buckets, on a network that carries one message of a ring after another."""
    parameters = [nn.Parameter(torch.empty(size, dtype=torch.uint8), False) for size in sizes]
    numbers = {parameter: number for number, parameter in enumerate(parameters)}
    buckets, spans, free = [], [], 0.0
    for bucket in data_parallel.fill_buckets(parameters, bucket_bytes):
        buckets.append([numbers[parameter] for parameter in bucket.parameters])
        start = max(free, *(ready_ms[number] for number in buckets[-1]))
        sent = collectives.all_reduce_bytes(bucket.flat.nbytes, n)
        free = start + 2 * (n - 1) * latency_ms + sent / bytes_per_ms
        spans.append((start, free))
    return buckets, spans


def zero_bill(
    units: Sequence[int], frozen: int, n: int, stage: int, m: int
) -> tuple[int, int, int, int]:
    """labkit's memory and traffic, of units that n divides; accumulation repeats some passes."""
    padded = sum(-(-unit // n) * n for unit in units)
    memory = zero.zero_memory(padded, n, stage)
    half = collectives.all_reduce_bytes(2 * padded, n) / 2
    passes = (2, 2, m + 1, 3 * m)[stage]
    kept = memory.parameters + 2 * frozen
    return kept, memory.gradients, memory.optimizer, round(passes * half)


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, all_reduce: AllReduce) -> Tensor:
        ctx.all_reduce = all_reduce
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.all_reduce(gradient), None


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, all_reduce: AllReduce) -> Tensor:
        return all_reduce(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class ParallelFFN(nn.Module):
    """A rank's gates with their ups, and the columns of `down` that meet them."""

    def __init__(
        self,
        gate_up: Tensor,
        down: Tensor,
        bias: Tensor,
        rank: int,
        n: int,
        all_reduce: AllReduce,
    ) -> None:
        super().__init__()
        F = len(gate_up) // 2
        mine = torch.arange(F).chunk(n)[rank]
        self.gate_up = nn.Parameter(gate_up.detach()[torch.cat((mine, F + mine))])
        self.down = nn.Parameter(down.detach()[:, mine])
        self.bias = nn.Parameter(bias.detach().clone())
        self.all_reduce = all_reduce

    def forward(self, x: Tensor) -> Tensor:
        entered: Tensor = _Enter.apply(x, self.all_reduce)
        gate, up = (entered @ self.gate_up.T).chunk(2, dim=-1)
        partial = (nn.functional.silu(gate) * up) @ self.down.T
        total: Tensor = _Leave.apply(partial, self.all_reduce)
        return total + self.bias


def parallel_cross_entropy(
    logits: Tensor, targets: Tensor, start: int, vocab_size: int, all_reduce: AllReduce
) -> tuple[Tensor, Tensor]:
    """Three numbers a token travel: the maximum, the sum of exponentials, the target's logit."""
    real = max(0, min(logits.shape[1], vocab_size - start))
    scores = logits[:, :real]
    lowest = scores.new_full((len(scores), 1), -math.inf)
    top = all_reduce(torch.cat((scores, lowest), dim=1).amax(1), "max")
    weights = (scores - top[:, None]).exp()
    total = all_reduce(weights.sum(1), "sum")
    is_target = start + torch.arange(real) == targets[:, None]
    counted = (targets != IGNORE_INDEX).float()
    losses = top + total.log() - all_reduce((scores * is_target).sum(1), "sum")
    gradient = torch.zeros_like(logits)
    gradient[:, :real] = (weights / total[:, None] - is_target.float()) * counted[:, None]
    return losses * counted, gradient


def pipeline_schedule(rank: int, p: int, m: int) -> tuple[list[str], int, float]:
    """labkit's 1F1B, its peak, and the formula of the bubble."""
    actions = schedules.one_forward_one_backward(p, m)[rank]
    held = schedules.peak_in_flight(actions)
    return [str(action) for action in actions], held, schedules.bubble_formula(p, m)


def diagnose(step: Step, n: int, m: int) -> str:
    """One example on the last rank, in its last micro-batch, tells every fault from the others."""
    nothing, x, y = torch.zeros(1), torch.zeros(n, m, 1), torch.zeros(n, m)
    if step(nothing, x, y).any():
        return "no_broadcast"
    x[-1, -1], y[-1, -1] = 1.0, float(n * m)
    moved = step(nothing, x, y)[:, 0] / LR  # 1 everywhere if healthy
    if moved[0] != moved[-1]:
        return "early"
    if not moved.any():
        return "same_data"
    return "healthy" if torch.allclose(moved, torch.ones(n)) else "summed"


IMPLEMENTATIONS: dict[str, Any] = {
    "ring_all_reduce": ring_all_reduce,
    "bucket_timeline": bucket_timeline,
    "zero_bill": zero_bill,
    "parallel_ffn": ParallelFFN,
    "parallel_cross_entropy": parallel_cross_entropy,
    "pipeline_schedule": pipeline_schedule,
    "diagnose": diagnose,
}
