"""Byte ranges of code points against the encoder itself."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from labkit.inference.structured.utf8 import byte_ranges

CODES = st.one_of(
    st.integers(0, 0x10FFFF),
    st.sampled_from([0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xD800, 0xDFFF, 0xE000, 0xFFFF, 0x10000]),
)


def matches(paths: list[tuple[tuple[int, int], ...]], data: bytes) -> int:
    return sum(
        len(path) == len(data)
        and all(low <= byte <= high for (low, high), byte in zip(path, data, strict=True))
        for path in paths
    )


@settings(deadline=None)
@given(CODES, CODES, st.lists(CODES, min_size=1))
@example(0, 0x10FFFF, [0, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF])
def test_exactly_the_characters_of_the_range_match_and_once(one, other, probes):
    low, high = sorted((one, other))
    paths = list(byte_ranges(low, high))
    near = [code + step for code in (*probes, low, high) for step in (-1, 0, 1)]
    for code in near:
        if 0 <= code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF:
            assert matches(paths, chr(code).encode()) == (low <= code <= high), hex(code)


@pytest.mark.parametrize(
    "data", [b"\xed\xa0\x80", b"\xc0\x80", b"\xe0\x80\x80", b"\xf4\x90\x80\x80"]
)
def test_surrogates_and_overlong_encodings_never_match(data):
    assert matches(list(byte_ranges(0, 0x10FFFF)), data) == 0


def test_a_whole_plane_is_few_ranges():
    assert len(list(byte_ranges(0x10000, 0x10FFFF))) == 3
    assert list(byte_ranges(0xE9, 0x800)) == [
        ((0xC3, 0xC3), (0xA9, 0xBF)),
        ((0xC4, 0xDF), (0x80, 0xBF)),
        ((0xE0, 0xE0), (0xA0, 0xA0), (0x80, 0x80)),
    ]


def test_every_range_near_the_borders_between_heads():
    """Heads c2, c3, c4 and the border to one byte, whole and in part."""
    codes = [0x7E, 0x7F, 0x80, 0x81, 0xBF, 0xC0, 0xC1, 0xFF, 0x100, 0x101, 0x13F, 0x140]
    for low in codes:
        for high in codes:
            paths = list(byte_ranges(low, high))
            matched = [code for code in range(0x7D, 0x142) if matches(paths, chr(code).encode())]
            assert matched == [code for code in range(0x7D, 0x142) if low <= code <= high]
