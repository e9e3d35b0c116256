"""Pipeline schedules as data: for each rank, the order of its forward and backward passes.

A schedule says nothing of time; `timeline` gives each action the earliest start that its order and
its inputs allow, and the bubble is what is then idle.

Papers: GPipe arXiv 1811.06965; 1F1B (PipeDream-flush) and interleaving arXiv 2104.04473,
section 2.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """One micro-batch through one chunk of layers.

    Attributes:
        backward: False for the forward pass.
        microbatch: 0 to m - 1.
        chunk: of the rank's v chunks, 0 without interleaving; chunk c of rank r is stage c p + r.
    """

    backward: bool
    microbatch: int
    chunk: int = 0

    def __str__(self) -> str:
        letter = "B" if self.backward else "F"
        return f"{letter}{self.microbatch}" + (f".{self.chunk}" if self.chunk else "")


Schedule = list[list[Action]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """When a rank does an action, in units of one whole rank's forward pass."""

    rank: int
    action: Action
    start: float
    end: float


def gpipe(p: int, m: int) -> Schedule:
    """All m forwards, then all backwards, on each of p ranks; keeps m micro-batches in flight."""
    _require_positive(p=p, m=m)
    forwards = [Action(backward=False, microbatch=i) for i in range(m)]
    backwards = [Action(backward=True, microbatch=i) for i in range(m)]
    return [forwards + backwards for _ in range(p)]


def one_forward_one_backward(p: int, m: int) -> Schedule:
    """1F1B: rank r runs p - 1 - r forwards ahead, then alternates; at most p - r in flight."""
    return [_alternating(p, m, 1, p - 1 - rank) for rank in range(p)]


def interleaved(p: int, m: int, v: int) -> Schedule:
    """1F1B with v chunks of layers on each rank: 1 / v of the bubble, v times the messages.

    Raises:
        ValueError: p does not divide m, or a number is not positive.
    """
    _require_positive(p=p, m=m, v=v)
    if m % p:
        raise ValueError(
            f"p={p} ranks must divide m={m} micro-batches: interleaving deals them out by p"
        )
    return [_alternating(p, m, v, 2 * (p - 1 - rank) + (v - 1) * p) for rank in range(p)]


def _alternating(p: int, m: int, v: int, ahead: int) -> list[Action]:
    _require_positive(p=p, m=m, v=v)
    total = m * v
    ahead = min(ahead, total)
    forwards = [_nth(i, p, v, backward=False) for i in range(total)]
    backwards = [_nth(i, p, v, backward=True) for i in range(total)]
    steady = [a for pair in zip(forwards[ahead:], backwards, strict=False) for a in pair]
    return forwards[:ahead] + steady + backwards[total - ahead :]


def _nth(i: int, p: int, v: int, *, backward: bool) -> Action:
    """p micro-batches through chunk 0, the same p through chunk 1, ...; backward from the last."""
    chunk = i % (p * v) // p
    microbatch = i // (p * v) * p + i % p
    return Action(
        backward=backward, microbatch=microbatch, chunk=v - 1 - chunk if backward else chunk
    )


def timeline(schedule: Schedule, *, backward_cost: float = 2.0) -> list[Span]:
    """The earliest time of every action; messages take none.

    A forward needs the stage before, a backward the stage after and its own forward.

    Args:
        schedule: actions by rank.
        backward_cost: of a backward pass, in forward passes.

    Returns:
        Spans in the order found, which is one that a machine could run in.

    Raises:
        ValueError: the schedule can never end: some ranks wait for each other.
    """
    p = len(schedule)
    v = 1 + max(action.chunk for actions in schedule for action in actions)
    free, place = [0.0] * p, [0] * p
    done: dict[tuple[bool, int, int], float] = {}
    spans: list[Span] = []
    while len(spans) < sum(map(len, schedule)):
        before = len(spans)
        for rank, actions in enumerate(schedule):
            while place[rank] < len(actions):
                action = actions[place[rank]]
                needs = _needs(action, rank, p, v)
                if any(need not in done for need in needs):
                    break
                start = max([free[rank], *(done[need] for need in needs)])
                end = start + (backward_cost if action.backward else 1.0) / v
                done[_key(action, rank, p)] = free[rank] = end
                spans.append(Span(rank=rank, action=action, start=start, end=end))
                place[rank] += 1
        if len(spans) == before:
            waiting = {r: str(a[place[r]]) for r, a in enumerate(schedule) if place[r] < len(a)}
            raise ValueError(f"the schedule never ends: ranks wait at {waiting}")
    return spans


def _key(action: Action, rank: int, p: int) -> tuple[bool, int, int]:
    return action.backward, action.microbatch, action.chunk * p + rank


def _needs(action: Action, rank: int, p: int, v: int) -> list[tuple[bool, int, int]]:
    _, microbatch, stage = _key(action, rank, p)
    if not action.backward:
        return [(False, microbatch, stage - 1)] if stage else []
    after = [(True, microbatch, stage + 1)] if stage < p * v - 1 else []
    return [(False, microbatch, stage), *after]


def bubble_fraction(spans: Sequence[Span]) -> float:
    """Idle share of all ranks' time, from the first action to the last."""
    ranks = 1 + max(span.rank for span in spans)
    busy = sum(span.end - span.start for span in spans)
    return 1 - busy / (ranks * max(span.end for span in spans))


def bubble_formula(p: int, m: int, v: int = 1) -> float:
    """(p - 1) / (v m + p - 1): of GPipe and 1F1B with v = 1, of interleaving with v chunks.

    A share of the whole time; the papers also give (p - 1) / (v m), a share of the ideal time.
    """
    return (p - 1) / (v * m + p - 1)


def peak_in_flight(actions: Sequence[Action]) -> int:
    """Most forward passes of one rank whose backward has not come: activations it must hold."""
    held, peak = 0, 0
    for action in actions:
        held += -1 if action.backward else 1
        peak = max(peak, held)
    return peak


def _require_positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
