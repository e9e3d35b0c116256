"""The deterministic automaton of a grammar, made state by state as texts walk through it.

The subset construction over *configurations*: a state is the set of all (network state, stack of
return addresses) that the bytes read so far may have led to. A regular expression has finitely many
of them. Rules that nest have no end of them, and need only those that are met.
"""

import math
import threading
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from labkit.inference.structured.expression import Grammar
from labkit.inference.structured.network import Network

DEAD = 0
START = 1
_NO_STACK = 0

Configuration = frozenset[tuple[int, int]]  # (network state, stack)


class Automaton:
    """Byte by byte from state to state; states are numbered as they are found.

    Rows are made under a lock, so threads may share one; the arrays are replaced when they grow.

    Args:
        grammar: What texts may be.
        spellable: Bytes that are a token by themselves; by default all.

    Attributes:
        table: `table[state, byte]` is the next state, for the states whose row is known.
        known: Which rows are.
        distance: For each state, the fewest spellable bytes to an accepted text; 0 in accepting
            states, inf where there is no way.

    Raises:
        ValueError: The grammar matches no text of spellable bytes, or `Network` refuses it.
    """

    def __init__(self, grammar: Grammar, spellable: frozenset[int] = frozenset(range(256))) -> None:
        self._network = Network(grammar, spellable)
        self._returns = {state: name for name, state in self._network.exits.items()}
        self._stacks: list[tuple[int, int]] = [(-1, -1)]  # (return to, stack below)
        self._stack_numbers: dict[tuple[int, int], int] = {}
        self._stack_costs = [0.0]
        self._numbers: dict[tuple[Configuration, bool], int] = {}
        self._by_seeds: dict[Configuration, int] = {}
        self._members: list[Configuration] = [frozenset()]
        self._lock = threading.RLock()
        self.table = np.zeros((64, 256), dtype=np.int32)
        self.known = np.zeros(64, dtype=bool)
        self.distance = np.full(64, math.inf)
        self.known[DEAD] = True
        entry = self._network.entries[grammar.start]
        self._state_of(frozenset({(entry, _NO_STACK)}))
        if math.isinf(self.distance[START]):
            raise ValueError("no finite text that the tokenizer can spell satisfies this grammar")

    def __len__(self) -> int:
        return len(self._members)

    def accepting(self, state: int) -> bool:
        """Whether the text that led here is complete."""
        return bool(self.distance[state] == 0)

    def step(self, state: int, byte: int) -> int:
        """The state after one more byte, DEAD if no text goes on with it."""
        if not self.known[state]:
            self._make_row(state)
        return int(self.table[state, byte])

    def read(self, data: bytes, state: int = START) -> int:
        """The state after these bytes."""
        for byte in data:
            state = self.step(state, byte)
        return state

    def row(self, state: int) -> NDArray[np.int32]:
        """The states after each of the 256 bytes."""
        self.step(state, 0)
        row: NDArray[np.int32] = self.table[state]
        return row

    def prepare(self, states: NDArray[np.int32]) -> None:
        """Make the missing rows of these states."""
        missing = states[~self.known[states]]
        for state in set(missing.tolist()):
            self._make_row(state)

    def _make_row(self, state: int) -> None:
        with self._lock:
            moves = [
                (low, high, (target, stack))
                for member, stack in self._members[state]
                for low, high, target in self._network.moves[member]
            ]
            borders = sorted({edge for low, high, _ in moves for edge in (low, high + 1)})
            row = np.zeros(256, dtype=np.int32)
            for begin, end in pairwise(borders):
                seeds = frozenset(seed for low, high, seed in moves if low <= begin <= high)
                row[begin:end] = self._state_of(seeds) if seeds else DEAD
            self.table[state] = row  # only now: `_state_of` may have moved the table
            self.known[state] = True

    def _state_of(self, seeds: Configuration) -> int:
        """The number of the state with these members and all they reach without reading."""
        if seeds not in self._by_seeds:
            reached, accepting = self._closure(seeds)
            key = (reached, accepting)
            if key not in self._numbers:
                self._numbers[key] = self._new_state(reached, accepting)
            self._by_seeds[seeds] = self._numbers[key]
        return self._by_seeds[seeds]

    def _closure(self, seeds: Configuration) -> tuple[Configuration, bool]:
        network, todo, seen = self._network, list(seeds), set(seeds)
        accepting = False
        while todo:
            state, stack = todo.pop()
            found = [(target, stack) for target in network.epsilon[state]]
            for rule, after in network.calls[state]:
                found.append((network.entries[rule], self._push(after, stack)))
            if state in self._returns:
                if stack == _NO_STACK:
                    accepting |= self._returns[state] == network.start
                else:
                    found.append(self._stacks[stack])
            fresh = [pair for pair in found if pair not in seen]
            seen.update(fresh)
            todo += fresh
        return frozenset(pair for pair in seen if network.moves[pair[0]]), accepting

    def _push(self, after: int, stack: int) -> int:
        key = (after, stack)
        if key not in self._stack_numbers:
            self._stack_numbers[key] = len(self._stacks)
            self._stacks.append(key)
            self._stack_costs.append(self._network.to_exit[after] + self._stack_costs[stack])
        return self._stack_numbers[key]

    def _new_state(self, members: Configuration, accepting: bool) -> int:
        number = len(self._members)
        if number == len(self.known):
            self.table = np.concatenate([self.table, np.zeros_like(self.table)])
            self.known = np.concatenate([self.known, np.zeros_like(self.known)])
            self.distance = np.concatenate([self.distance, np.full(number, math.inf)])
        costs = [
            self._network.to_exit[state] + self._stack_costs[stack] for state, stack in members
        ]
        self.distance[number] = 0 if accepting else min(costs, default=math.inf)
        self._members.append(members)
        return number
