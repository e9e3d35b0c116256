"""Who runs in the next step: continuous batching with chunked prefill, preemption and fairness."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from labkit.inference.paging import BlockManager, Copy, OutOfPagesError


@dataclass(slots=True, eq=False)
class Sequence:
    """One request under way.

    Attributes:
        key: its number; smaller ones came earlier.
        tokens: of the prompt, then those generated.
        priority: smaller ones run first.
        client: whom it is counted for, where clients share the machine fairly.
        slot: of its adapter; 0 is the base model.
        salt: what its keys and values depend on beside the tokens.
        computed: tokens whose keys and values lie in pages.
        cached: how many of them were found there at the last begin.
        preemptions: how often it had to give its pages back.
    """

    key: int
    tokens: list[int]
    priority: int = 0
    client: str = ""
    slot: int = 0
    salt: bytes = b""
    computed: int = 0
    cached: int = 0
    preemptions: int = 0

    @property
    def rank(self) -> tuple[int, int]:
        """Order of service: by priority, then by arrival."""
        return self.priority, self.key


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens [start, start + count) of a sequence, to be run in this step."""

    sequence: Sequence
    start: int
    count: int

    @property
    def complete(self) -> bool:
        """Whether the next token can be chosen after this step."""
        return self.start + self.count == len(self.sequence.tokens)


@dataclass(slots=True)
class Plan:
    """One step: what to run, which pages to copy before, who was preempted."""

    chunks: list[Chunk] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)


class Scheduler:
    """Plans steps of at most `token_budget` tokens over at most `max_batch` sequences.

    Each step first serves sequences that decode, one token each, so that no prompt stalls them;
    what is left of the budget goes to prompts under way and then to new ones, in chunks. When pages
    run out, the sequence of last rank gives its own back and is recomputed later (the prefix cache
    often still has them); one that the step has served already keeps them, and who then has no page
    waits for the next step, in which no new one enters. So nobody gives pages back to one of later
    rank. Among waiting sequences of one priority the client that has been served least comes first.

    Paper: iteration-level scheduling OSDI 2022 (Orca); chunked prefill arXiv 2403.02310; fair
    sharing by counted tokens arXiv 2401.00588.

    Args:
        blocks: the pages.
        token_budget: most tokens in a step.
        max_batch: most sequences under way.
    """

    def __init__(self, blocks: BlockManager, *, token_budget: int, max_batch: int) -> None:
        if not 1 <= max_batch <= token_budget:
            raise ValueError(
                f"max_batch={max_batch} must lie between 1 and token_budget={token_budget}: "
                "every running sequence takes a token of each step"
            )
        self._blocks = blocks
        self._token_budget, self._max_batch = token_budget, max_batch
        self.waiting: dict[int, Sequence] = {}
        self.running: dict[int, Sequence] = {}
        self._served: Counter[str] = Counter()  # tokens, by client

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. A client that was idle does not keep credit from that time."""
        active = {s.client for s in self._all()}
        if sequence.client not in active and active:
            least = min(self._served[client] for client in active)
            self._served[sequence.client] = max(self._served[sequence.client], least)
        self.waiting[sequence.key] = sequence

    def remove(self, key: int) -> Sequence:
        """Drop a sequence, finished or aborted, and return it; its pages are given back."""
        if key in self.running:
            self._blocks.end(key)
            sequence = self.running.pop(key)
        else:
            sequence = self.waiting.pop(key)
        if not self.running and not self.waiting:
            self._served.clear()
        return sequence

    def plan(self) -> Plan:
        """The next step. It is empty only if there is nothing to do."""
        plan, budget, all_run = Plan(), self._token_budget, True
        order = sorted(self.running.values(), key=lambda s: (_left(s) > 1, *s.rank))
        for sequence in order:
            if budget and sequence.key in self.running:  # it may have been preempted by now
                count = self._run(sequence, budget, plan)
                budget -= count
                all_run = all_run and count > 0
        while budget and self.waiting and len(self.running) < self._max_batch:
            if (
                plan.preempted
                or not all_run
                or not (count := self._admit(self._next(), budget, plan))
            ):
                break
            budget -= count
        for chunk in plan.chunks:
            self._served[chunk.sequence.client] += chunk.count
        return plan

    def advance(self, plan: Plan) -> None:
        """Say that a plan's chunks have been run."""
        for chunk in plan.chunks:
            sequence = chunk.sequence
            sequence.computed = chunk.start + chunk.count
            self._blocks.fill(sequence.key, sequence.tokens, sequence.computed)

    def _run(self, sequence: Sequence, budget: int, plan: Plan) -> int:
        """Give a running sequence its pages, at the cost of later ones if need be."""
        count = min(_left(sequence), budget)
        while True:
            try:
                copies = self._blocks.reserve(sequence.key, sequence.computed + count)
            except OutOfPagesError:
                served = [chunk.sequence for chunk in plan.chunks]
                others = [s for s in self.running.values() if s not in served]
                victim = max(others, key=lambda s: s.rank)
                if victim is sequence and any(s.rank > sequence.rank for s in served):
                    return 0
                self._preempt(victim, plan)
                if victim is sequence:
                    return 0
            else:
                plan.copies += copies
                plan.chunks.append(Chunk(sequence, sequence.computed, count))
                return count

    def _preempt(self, victim: Sequence, plan: Plan) -> None:
        del self.running[victim.key]
        self._blocks.end(victim.key)
        victim.computed = 0
        victim.preemptions += 1
        self.waiting[victim.key] = victim
        plan.preempted.append(victim)

    def _next(self) -> Sequence:
        def order(sequence: Sequence) -> tuple[int, int, int]:
            return sequence.priority, self._served[sequence.client], sequence.key

        return min(self.waiting.values(), key=order)

    def _admit(self, sequence: Sequence, budget: int, plan: Plan) -> int:
        """Start a waiting sequence if its next chunk fits beside what runs; its token count."""
        cached = self._blocks.begin(sequence.key, sequence.tokens, salt=sequence.salt)
        count = min(len(sequence.tokens) - cached, budget)
        try:
            plan.copies += self._blocks.reserve(sequence.key, cached + count)
        except OutOfPagesError:
            self._blocks.end(sequence.key)
            return 0
        del self.waiting[sequence.key]
        self.running[sequence.key] = sequence
        sequence.computed = sequence.cached = cached
        plan.chunks.append(Chunk(sequence, cached, count))
        return count

    def _all(self) -> Iterable[Sequence]:
        return [*self.waiting.values(), *self.running.values()]


def _left(sequence: Sequence) -> int:
    """Tokens whose keys and values are not yet computed."""
    return len(sequence.tokens) - sequence.computed
