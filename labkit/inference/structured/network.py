"""A grammar as a nondeterministic automaton over bytes whose rules call one another.

Thompson's construction: every expression becomes a few states between an entry and an exit. A call
goes to the called rule's entry and remembers where to return, so that the whole is a pushdown
automaton; without calls it is an ordinary NFA.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Iterator

from labkit.inference.structured.expression import (
    Call,
    Characters,
    Choice,
    Concat,
    Expression,
    Grammar,
    Range,
    Repeat,
    Text,
)
from labkit.inference.structured.utf8 import byte_ranges

MAX_STATES = 100_000


class Network:
    """The states of all rules of a grammar.

    Args:
        grammar: Rules and start.
        spellable: Bytes that are a token by themselves; a text can only be finished with them.

    Attributes:
        epsilon: For each state, those reached without reading.
        moves: For each state, (first byte, last byte, next state).
        calls: For each state, (rule, state to return to).
        entries: Each rule's entry state.
        exits: Each rule's exit state.
        to_exit: For each state, the fewest spellable bytes to its rule's exit, or inf.

    Raises:
        ValueError: More than MAX_STATES states, an unknown rule, or rules that call themselves
            before reading anything.
    """

    def __init__(self, grammar: Grammar, spellable: frozenset[int]) -> None:
        self.epsilon: list[list[int]] = []
        self.moves: list[list[tuple[int, int, int]]] = []
        self.calls: list[list[tuple[str, int]]] = []
        self.entries = {name: self._state() for name in grammar.rules}
        self.exits = {name: self._state() for name in grammar.rules}
        self.start = grammar.start
        for name, expression in grammar.rules.items():
            self.epsilon[self._add(expression, self.entries[name])].append(self.exits[name])
        self._refuse_left_recursion()
        self.to_exit = self._distances(spellable)

    def _state(self) -> int:
        if len(self.moves) == MAX_STATES:
            raise ValueError(
                f"the grammar needs more than {MAX_STATES} states: lower its repetition counts "
                "(maxLength, maxItems, {m,n})"
            )
        for edges in (self.epsilon, self.moves, self.calls):
            edges.append([])
        return len(self.moves) - 1

    def _add(self, expression: Expression, entry: int) -> int:
        """Build `expression` behind `entry`; its exit."""
        match expression:
            case Concat(parts):
                for part in parts:
                    entry = self._add(part, entry)
                return entry
            case Text(text):
                return self._add_bytes([(byte, byte) for byte in text.encode()], entry)
            case Call(rule):
                if rule not in self.entries:
                    raise ValueError(f"rule {rule!r} is called and not defined")
                self.calls[entry].append((rule, self._state()))
                return len(self.moves) - 1
            case Repeat(part, least, most):
                return self._add_repeat(part, least, most, entry)
            case Characters(ranges):
                paths = [path for low, high in ranges for path in byte_ranges(low, high)]
                return self._join([self._add_bytes(path, entry) for path in paths])
            case Choice(options):
                return self._join([self._add(option, entry) for option in options])

    def _add_bytes(self, path: list[Range] | tuple[Range, ...], entry: int) -> int:
        for low, high in path:
            following = self._state()
            self.moves[entry].append((low, high, following))
            entry = following
        return entry

    def _add_repeat(self, part: Expression, least: int, most: int | None, entry: int) -> int:
        for _ in range(least):
            entry = self._add(part, entry)
        if most is None:
            loop = self._join([entry])
            self.epsilon[self._add(part, loop)].append(loop)
            return self._join([loop])
        exits = [entry]
        for _ in range(most - least):
            exits.append(self._add(part, self._join([exits[-1]])))
        return self._join(exits)

    def _join(self, exits: list[int]) -> int:
        joined = self._state()
        for state in exits:
            self.epsilon[state].append(joined)
        return joined

    def _refuse_left_recursion(self) -> None:
        """A rule that calls itself before reading a byte would be entered forever."""
        called = {name: set(self._called_first(name)) for name in self.entries}
        for name in called:
            todo, seen = list(called[name]), set()
            while todo:
                rule = todo.pop()
                if rule == name:
                    raise ValueError(f"rule {name!r} refers to itself before any text")
                if rule not in seen:
                    seen.add(rule)
                    todo += called[rule]

    def _called_first(self, name: str) -> Iterator[str]:
        """The rules that a rule may call before reading, taking every call to match nothing."""
        todo, seen = [self.entries[name]], set()
        while todo:
            state = todo.pop()
            if state not in seen:
                seen.add(state)
                yield from (rule for rule, _ in self.calls[state])
                todo += self.epsilon[state] + [after for _, after in self.calls[state]]

    def _distances(self, spellable: frozenset[int]) -> list[float]:
        """d(q) = min over edges q -> r of cost + d(r); a call costs its rule's own shortest text.

        Dijkstra from the exits. A call can be settled once both its rule's entry and its return
        state are: their sum is at least either, so the order stays right.

        Paper: Knuth, "A generalization of Dijkstra's algorithm", 1977.
        """
        into = self._reversed(spellable)
        callers: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for state, calls in enumerate(self.calls):
            for rule, after in calls:
                edge = (state, self.entries[rule], after)
                callers[edge[1]].append(edge)
                callers[after].append(edge)
        best = [math.inf] * len(self.moves)
        heap = [(0.0, state) for state in self.exits.values()]
        while heap:
            distance, state = heapq.heappop(heap)
            if distance >= best[state]:
                continue
            best[state] = distance
            for source, cost in into[state]:
                heapq.heappush(heap, (distance + cost, source))
            for source, entry, after in callers[state]:
                if (total := best[entry] + best[after]) < math.inf:
                    heapq.heappush(heap, (total, source))
        return best

    def _reversed(self, spellable: frozenset[int]) -> dict[int, list[tuple[int, int]]]:
        """For each state, (source, bytes read) of the edges into it that can be spelt."""
        into: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for source, targets in enumerate(self.epsilon):
            for target in targets:
                into[target].append((source, 0))
        for source, moves in enumerate(self.moves):
            for low, high, target in moves:
                if not spellable.isdisjoint(range(low, high + 1)):
                    into[target].append((source, 1))
        return into
