"""An automaton and a constraint's way through it as data, to be drawn or tabulated elsewhere."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from labkit.inference.structured.automaton import START, Automaton
from labkit.inference.structured.expression import Range
from labkit.inference.structured.grammar_constraint import GrammarConstraint


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """One arrow: every byte in the ranges leads from `source` to `target`."""

    source: int
    target: int
    ranges: tuple[Range, ...]

    @property
    def label(self) -> str:
        """The bytes as in a character class: "a-z", "0-9_", "\\xc3"."""
        ends = [(_name(low), _name(high)) for low, high in self.ranges]
        return "".join(low if low == high else f"{low}-{high}" for low, high in ends)


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagram:
    """The states met first, breadth first, with equivalent ones merged.

    Attributes:
        start: Where every text begins.
        accepting: States in which a text may end.
        edges: Between the states shown.
        whole: Whether there are no further states; where there are, nothing is merged.
    """

    start: int
    accepting: tuple[int, ...]
    edges: tuple[Edge, ...]
    whole: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A constraint between two tokens.

    Attributes:
        text: What has been read.
        state: Of the automaton.
        complete: Whether the text may end here.
        num_allowed: How many tokens may come next.
        examples: The first of them, the shortest first.
        tokens_to_finish: The fewest tokens to the end, the end of the sequence included.
    """

    text: str
    state: int
    complete: bool
    num_allowed: int
    examples: tuple[str, ...]
    tokens_to_finish: int


def diagram(automaton: Automaton, *, max_states: int = 60) -> Diagram:
    """The automaton's states and arrows, up to `max_states`; dead states are left out."""
    states = [START]
    for state in states:  # grows meanwhile
        for target in np.unique(automaton.row(state)).tolist():
            if target not in states and np.isfinite(automaton.distance[target]):
                states.append(target)
        if len(states) > max_states:
            break
    whole = len(states) <= max_states
    shown = states[:max_states]
    names = _merge(automaton, shown) if whole else {state: state for state in shown}
    edges = [
        edge for state in dict.fromkeys(names.values()) for edge in _edges(automaton, state, names)
    ]
    accepting = sorted({names[state] for state in shown if automaton.accepting(state)})
    return Diagram(start=names[START], accepting=tuple(accepting), edges=tuple(edges), whole=whole)


def trace(
    constraint: GrammarConstraint, tokens: Iterable[int], *, num_examples: int = 8
) -> list[Snapshot]:
    """What a constraint allows before each of the tokens and after the last; a copy walks.

    Raises:
        ValueError: A token may not come.
    """
    walker, text = constraint.copy(), b""
    snapshots = [_snapshot(walker, text, num_examples)]
    for token in tokens:
        walker.advance(token)
        text += constraint.masks.trie.tokens[token] or b""
        snapshots.append(_snapshot(walker, text, num_examples))
    return snapshots


def _snapshot(constraint: GrammarConstraint, text: bytes, num_examples: int) -> Snapshot:
    allowed = constraint.allowed().nonzero().flatten().tolist()
    texts = sorted((constraint.masks.trie.tokens[token] or b"" for token in allowed), key=len)
    return Snapshot(
        text=text.decode(errors="backslashreplace"),
        state=constraint.state,
        complete=constraint.complete,
        num_allowed=len(allowed),
        examples=tuple(one.decode(errors="backslashreplace") for one in texts[:num_examples]),
        tokens_to_finish=constraint.tokens_to_finish(),
    )


def _edges(automaton: Automaton, state: int, names: dict[int, int]) -> list[Edge]:
    targets: dict[int, list[Range]] = {}
    numbered = enumerate(automaton.row(state).tolist())
    for target, run in groupby(numbered, key=lambda pair: names.get(pair[1])):
        reading = [byte for byte, _ in run]
        if target is not None:
            targets.setdefault(target, []).append((reading[0], reading[-1]))
    return [
        Edge(source=state, target=target, ranges=tuple(ranges))
        for target, ranges in targets.items()
    ]


def _merge(automaton: Automaton, states: list[int]) -> dict[int, int]:
    """The first state of each class that no text tells apart: Moore's partition refinement."""
    kinds = {state: int(automaton.accepting(state)) for state in states}
    while True:
        signatures = {
            state: (kinds[state], tuple(kinds.get(to, -1) for to in automaton.row(state).tolist()))
            for state in states
        }
        numbers = {one: index for index, one in enumerate(dict.fromkeys(signatures.values()))}
        if len(numbers) == len(set(kinds.values())):
            break
        kinds = {state: numbers[signatures[state]] for state in states}
    first = {kind: state for state, kind in reversed(list(kinds.items()))}
    return {state: first[kind] for state, kind in kinds.items()}


def _name(byte: int) -> str:
    return repr(bytes([byte]))[2:-1]
