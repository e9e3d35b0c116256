"""A range of code points as the byte ranges of its UTF-8 encodings."""

from collections.abc import Iterator

from labkit.inference.structured.expression import LAST_CODE_POINT, SURROGATES, Range

_LENGTHS = ((0x0, 0x7F), (0x80, 0x7FF), (0x800, 0xFFFF), (0x10000, LAST_CODE_POINT))
_LOW, _HIGH = b"\x80", b"\xbf"  # a continuation byte lies between them


def byte_ranges(low: int, high: int) -> Iterator[tuple[Range, ...]]:
    """Sequences of byte ranges that together match the UTF-8 of every character in the range.

    From "é" to "ࠀ", for instance: [c3][a9-bf], [c4-df][80-bf], [e0][a0][80]. Surrogates have no
    UTF-8 and are left out.

    Args:
        low: First code point.
        high: Last code point, included.
    """
    for first, last in ((low, min(high, SURROGATES[0] - 1)), (max(low, SURROGATES[1] + 1), high)):
        for shortest, longest in _LENGTHS:
            begin, end = max(first, shortest), min(last, longest)
            if begin <= end:
                yield from _between(chr(begin).encode(), chr(end).encode())


def _between(low: bytes, high: bytes) -> Iterator[tuple[Range, ...]]:
    """All encodings of one length from `low` to `high`, in order."""
    rest = len(low) - 1
    if rest == 0 or low[0] == high[0]:
        head = (low[0], high[0])
        tails = _between(low[1:], high[1:]) if rest else iter([()])
        yield from ((head, *tail) for tail in tails)
        return
    first, last = low[0], high[0]
    if low[1:] != _LOW * rest:  # the first head has only some of its tails
        yield from (((first, first), *tail) for tail in _between(low[1:], _HIGH * rest))
        first += 1
    partial = high[1:] != _HIGH * rest
    if first <= last - partial:
        yield ((first, last - partial), *[(_LOW[0], _HIGH[0])] * rest)
    if partial:
        yield from (((last, last), *tail) for tail in _between(_LOW * rest, high[1:]))
