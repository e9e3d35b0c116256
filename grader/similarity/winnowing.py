"""Winnowing: few fingerprints of a text that are sure to find what two texts share.

Paper: Schleimer, Wilkerson, Aiken, "Winnowing: Local Algorithms for Document Fingerprinting",
SIGMOD 2003, definition 1 and section 3.
Differs: hashes that are ignored are never chosen, so that what all texts share does not hide what
two share; the runs behind the fingerprints are then compared token by token.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from typing import NamedTuple

NOISE = 10  # k: a fingerprint is the hash of so many tokens
GUARANTEE = 16  # t: a shared run of so many tokens is found
WINDOW = GUARANTEE - NOISE + 1
MAX_REPEATS = 4  # places kept of a fingerprint that one text repeats: bounds the work of a pair


class Run(NamedTuple):
    """`length` tokens that are the same from `first` in one text and from `second` in another."""

    first: int
    second: int
    length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprinted:
    """A text of tokens, and where in it each of its fingerprints stands."""

    words: Sequence[str]
    places: dict[int, list[int]]


def kgrams(words: Sequence[str]) -> list[int]:
    """The hash of every run of NOISE tokens, the same in every process."""
    texts = ("\n".join(words[at : at + NOISE]) for at in range(len(words) - NOISE + 1))
    return [int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) for text in texts]


def winnow(hashes: Sequence[int], ignored: AbstractSet[int] = frozenset()) -> list[int]:
    """Positions of the smallest hash of every WINDOW hashes, the rightmost of equal ones."""
    rising: deque[int] = deque()
    chosen: dict[int, None] = {}
    for end, value in enumerate(hashes):
        if value not in ignored:
            while rising and hashes[rising[-1]] >= value:
                rising.pop()
            rising.append(end)
        if rising and rising[0] <= end - WINDOW:
            rising.popleft()
        if rising and end >= WINDOW - 1:
            chosen[rising[0]] = None
    return list(chosen)


def fingerprint(
    words: Sequence[str], hashes: Sequence[int], ignored: AbstractSet[int] = frozenset()
) -> Fingerprinted:
    """Choose a text's fingerprints from its kgrams."""
    places: dict[int, list[int]] = {}
    for position in winnow(hashes, ignored):
        repeats = places.setdefault(hashes[position], [])
        if len(repeats) < MAX_REPEATS:
            repeats.append(position)
    return Fingerprinted(words=words, places=places)


def shared_runs(first: Fingerprinted, second: Fingerprinted) -> list[Run]:
    """Runs of at least GUARANTEE tokens that two texts share, in any order, none overlapping.

    Every such run is found unless all of it is ignored, or one text repeats its fingerprint more
    than MAX_REPEATS times. Where runs overlap, the longest is taken whole and of the others what
    is left, in parts of at least GUARANTEE tokens.
    """
    taken_first: set[int] = set()
    taken_second: set[int] = set()
    runs = []
    for run in sorted(_maximal_runs(first, second), key=lambda run: (-run.length, run)):
        free = [
            offset
            for offset in range(run.length)
            if run.first + offset not in taken_first and run.second + offset not in taken_second
        ]
        for start, length in _stretches(free):
            if length >= GUARANTEE:
                taken_first.update(range(run.first + start, run.first + start + length))
                taken_second.update(range(run.second + start, run.second + start + length))
                runs.append(Run(run.first + start, run.second + start, length))
    return sorted(runs)


def _maximal_runs(first: Fingerprinted, second: Fingerprinted) -> Iterator[Run]:
    seeds = sorted(
        (one, two)
        for value in first.places.keys() & second.places.keys()
        for one in first.places[value]
        for two in second.places[value]
    )
    reached: dict[int, int] = {}
    for one, two in seeds:
        if one < reached.get(one - two, 0):
            continue
        run = _extended(first.words, second.words, one, two)
        reached[one - two] = run.first + run.length
        yield run


def _extended(first: Sequence[str], second: Sequence[str], one: int, two: int) -> Run:
    start = 0
    while start < min(one, two) and first[one - start - 1] == second[two - start - 1]:
        start += 1
    length = 0
    most = min(len(first) - one, len(second) - two)
    while length < most and first[one + length] == second[two + length]:
        length += 1
    return Run(one - start, two - start, start + length)


def _stretches(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Start and length of each stretch of consecutive numbers."""
    for _, group in groupby(enumerate(numbers), key=lambda item: item[1] - item[0]):
        stretch = [number for _, number in group]
        yield stretch[0], len(stretch)
