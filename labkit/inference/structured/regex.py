r"""Regular expressions of a stated subset, parsed by hand.

The subset: literal characters; `.` (all but a line feed); classes `[a-z]`, `[^a-z]`; `\d \w \s`
and `\D \W \S` (ASCII); `\t \n \r \f \v`, `\xHH`, `\uHHHH` and escaped punctuation; groups `(…)`,
`(?:…)`; `|`; `? * +`, `{m}`, `{m,}`, `{m,n}`, each also lazy (`*?`: the same texts); `^` and `$`
around a top-level alternative. Look-around, back references, flags and `\b` are refused.
"""

import string
from dataclasses import dataclass

from labkit.inference.structured.expression import (
    SURROGATES,
    Characters,
    Choice,
    Concat,
    Expression,
    Range,
    Repeat,
    characters,
    complement,
    concat,
)

MAX_NESTING = 50

_DIGITS = Characters(((48, 57),))
_WORD = characters([(48, 57), (65, 90), (95, 95), (97, 122)])
_SPACE = characters([(9, 13), (32, 32)])
_CLASSES = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
_CLASSES |= {name.upper(): complement(found) for name, found in _CLASSES.items()}
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13}
_ANY = complement(Characters(((10, 10),)))
ANYTHING = Repeat(complement(Characters(())), 0, None)


@dataclass(frozen=True, slots=True)
class Alternative:
    """One top-level alternative and whether `^` and `$` stand around it."""

    body: Expression
    from_start: bool
    to_end: bool


def parse_regex(pattern: str) -> Expression:
    """The texts that the pattern matches as a whole, as `re.fullmatch(pattern, text, re.ASCII)`.

    Raises:
        ValueError: The pattern is malformed or leaves the subset; the position is told.
    """
    return Choice(tuple(found.body for found in _Parser(pattern).alternatives()))


def parse_search(pattern: str) -> Expression:
    """The texts in which the pattern is found anywhere, as JSON Schema's `pattern` asks.

    Raises:
        ValueError: As `parse_regex`.
    """
    nothing = Concat(())
    return Choice(
        tuple(
            concat(
                nothing if found.from_start else ANYTHING,
                found.body,
                nothing if found.to_end else ANYTHING,
            )
            for found in _Parser(pattern).alternatives()
        )
    )


class _Parser:
    """Recursive descent over the pattern: alternatives > sequence > repetition > atom."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._depth = 0

    def alternatives(self) -> list[Alternative]:
        found = []
        while True:
            from_start = self._take("^")
            body = self._sequence()
            found.append(Alternative(body, from_start, self._take("$")))
            if not self._take("|"):
                break
        if self._at < len(self._pattern):
            raise self._error("unmatched ')'" if self._peek() == ")" else "an anchor inside")
        return found

    def _choice(self) -> Expression:
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _sequence(self) -> Expression:
        parts = []
        while self._peek() not in ("", "|", ")", "$"):
            parts.append(self._repetition())
        return parts[0] if len(parts) == 1 else Concat(tuple(parts))

    def _repetition(self) -> Expression:
        atom = self._atom()
        bounds = self._bounds()
        if bounds is None:
            return atom
        self._take("?")  # lazy: another order of trying, the same texts
        if self._peek() in ("*", "+", "?", "{"):
            raise self._error("a quantifier on a quantifier (possessive ones are not supported)")
        return Repeat(atom, *bounds)

    def _bounds(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("?", (0, 1)), ("*", (0, None)), ("+", (1, None))):
            if self._take(sign):
                return bounds
        if not self._take("{"):
            return None
        least = self._number()
        if self._take("}"):
            return least, least
        if not self._take(","):
            raise self._error("a malformed {m,n}")
        most = None if self._peek() == "}" else self._number()
        if not self._take("}") or (most is not None and most < least):
            raise self._error("a malformed {m,n}")
        return least, most

    def _number(self) -> int:
        begin = self._at
        while self._peek() in tuple(string.digits):
            self._at += 1
        if begin == self._at:
            raise self._error("a '{' without its number (a literal one is written '\\{')")
        return int(self._pattern[begin : self._at])

    def _atom(self) -> Expression:
        sign = self._next()
        if sign == "(":
            return self._group()
        if sign == "[":
            return self._class()
        if sign == ".":
            return _ANY
        if sign == "\\":
            return self._escape()
        if sign in "*+?{^":
            self._at -= 1
            raise self._error("an anchor inside" if sign == "^" else "nothing to repeat")
        return self._character(ord(sign))

    def _group(self) -> Expression:
        if self._take("?") and not self._take(":"):
            raise self._error("a group other than (…) and (?:…) is not supported")
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise self._error(f"groups nest deeper than {MAX_NESTING}")
        inside = self._choice()
        if not self._take(")"):
            raise self._error("an anchor inside" if self._peek() == "$" else "'(' is not closed")
        self._depth -= 1
        return inside

    def _class(self) -> Expression:
        negated = self._take("^")
        ranges: list[Range] = []
        if self._peek() == "]":
            raise self._error("an empty class (a ']' in one is written '\\]')")
        while not self._take("]"):
            ranges += self._class_item()
        return complement(characters(ranges)) if negated else characters(ranges)

    def _class_item(self) -> tuple[Range, ...]:
        low = self._class_character()
        dash = self._pattern[self._at : self._at + 2]
        if not dash.startswith("-") or dash == "-]":
            return low.ranges
        self._next()
        high = self._class_character()
        (begin, first), (last, end) = low.ranges[0], high.ranges[-1]
        if len(low.ranges + high.ranges) > 2 or begin != first or last != end or end < begin:
            raise self._error("a malformed range in a class")
        return ((begin, end),)

    def _class_character(self) -> Characters:
        sign = self._next()
        if sign == "\\":
            return self._escape()
        if sign in "[]" or (sign in "&~|-" and self._peek() == sign):
            raise self._error(f"{sign!r} in a class must be escaped")
        return self._character(ord(sign))

    def _escape(self) -> Characters:
        sign = self._next()
        if sign in _CLASSES:
            return _CLASSES[sign]
        if sign in _CONTROLS:
            return self._character(_CONTROLS[sign])
        if sign in ("x", "u"):
            return self._character(self._hexadecimal(2 if sign == "x" else 4))
        if sign in string.ascii_letters + string.digits:
            raise self._error(f"\\{sign} is not supported")
        return self._character(ord(sign))

    def _hexadecimal(self, length: int) -> int:
        digits = self._pattern[self._at : self._at + length]
        if len(digits) < length or not set(digits) <= set(string.hexdigits):
            raise self._error(f"an escape without its {length} hexadecimal digits")
        self._at += length
        return int(digits, 16)

    def _character(self, code: int) -> Characters:
        if SURROGATES[0] <= code <= SURROGATES[1]:
            raise self._error("a surrogate is no character")
        return Characters(((code, code),))

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _take(self, sign: str) -> bool:
        found = self._peek() == sign
        self._at += found
        return found

    def _next(self) -> str:
        sign = self._peek()
        if not sign:
            raise self._error("the pattern ends too early")
        self._at += 1
        return sign

    def _error(self, reason: str) -> ValueError:
        return ValueError(f"regular expression {self._pattern!r}, position {self._at}: {reason}")
