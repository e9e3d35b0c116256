"""What a text may be, as a tree: characters, literal text, sequence, choice, repetition, call.

Regular expressions and JSON Schemas are both translated to it. A `Call` of a named rule is the one
thing that a regular expression cannot say: rules may call themselves, so brackets nest.
"""

from collections.abc import Iterable
from dataclasses import dataclass

LAST_CODE_POINT = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Characters:
    """One character with its code point in one of the inclusive ranges."""

    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """Exactly this text."""

    text: str


@dataclass(frozen=True, slots=True)
class Concat:
    """The parts one after the other; no parts is the empty text."""

    parts: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the options; no options matches nothing at all."""

    options: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """The part from `least` to `most` times; None has no upper end."""

    part: "Expression"
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Call:
    """Whatever the named rule matches."""

    rule: str


Expression = Characters | Text | Concat | Choice | Repeat | Call


@dataclass(frozen=True, slots=True)
class Grammar:
    """Named rules and the one that the whole text follows."""

    rules: dict[str, Expression]
    start: str


def concat(*parts: Expression) -> Concat:
    """`Concat` without the tuple."""
    return Concat(parts)


def choice(*options: Expression) -> Choice:
    """`Choice` without the tuple."""
    return Choice(options)


def optional(part: Expression) -> Repeat:
    """The part or nothing."""
    return Repeat(part, 0, 1)


def characters(ranges: Iterable[Range]) -> Characters:
    """Characters of these ranges, sorted and merged."""
    merged: list[Range] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return Characters(tuple(merged))


def complement(part: Characters) -> Characters:
    """Every character that is not one of `part`'s."""
    begin, gaps = 0, []
    for low, high in characters(part.ranges).ranges:
        if begin < low:
            gaps.append((begin, low - 1))
        begin = high + 1
    if begin <= LAST_CODE_POINT:
        gaps.append((begin, LAST_CODE_POINT))
    return Characters(tuple(gaps))
