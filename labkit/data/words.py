"""GPT-2's cut of text into words, and the printable symbols that stand for bytes."""

import re
import unicodedata
from functools import cache

WHITE_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


def byte_symbols() -> dict[int, str]:
    """The printable character that stands for each byte in GPT-2's vocabulary, in id order.

    The printable bytes stand for themselves; the 68 others take the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


SYMBOLS = byte_symbols()


def _character_class(category: str) -> str:
    """Ranges of a regular expression holding every character of one Unicode category."""
    ranges: list[list[int]] = []
    for code in range(0x110000):
        if unicodedata.category(chr(code))[0] != category:
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in ranges)


@cache
def _word_pattern() -> re.Pattern[str]:
    r"""GPT-2's pattern with explicit classes: `re` has no \p{L}, and its \s is a wider class."""
    letter, number, space = _character_class("L"), _character_class("N"), WHITE_SPACE
    return re.compile(
        rf"'(?:s|t|re|ve|m|ll|d)| ?[{letter}]+| ?[{number}]+| ?[^{space}{letter}{number}]+"
        rf"|[{space}]+(?![^{space}])|[{space}]+"
    )


def split_words(text: str) -> list[str]:
    """Cut text into the words that merges stay within, as `ByteLevel(use_regex=True)` does.

    A word keeps the one space before it. Characters newer than this Python's Unicode tables count
    as neither letter nor digit.
    """
    return _word_pattern().findall(text)
