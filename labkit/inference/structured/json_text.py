r"""How JSON spells its values: strings, numbers, and the one text of a constant.

A string's characters stand for themselves; quotes, backslashes and control characters are escaped,
as `\n` or as `\u000a`. Other escapes (`\/`, `\u0041`) spell nothing new and are left out, as
llguidance leaves them out.
"""

import json
from typing import Any

from labkit.inference.structured.expression import (
    Call,
    Characters,
    Choice,
    Concat,
    Expression,
    Repeat,
    Text,
    characters,
    choice,
    complement,
    concat,
    optional,
)

Separators = tuple[str, str]  # between items, and after a key: ", " and ": "

CHARACTER = "character"
ANY_VALUE = "any value"

_QUOTED = {8: "b", 9: "t", 10: "n", 12: "f", 13: "r", ord('"'): '"', ord("\\"): "\\"}
_CONTROLS = [*range(0x20), 0x7F]
_PLAIN = complement(characters([(code, code) for code in (*_CONTROLS, ord('"'), ord("\\"))]))
_MAX_EXACT = 2**53

_DIGIT = Characters(((48, 57),))
INTEGER = concat(
    optional(Text("-")),
    choice(Text("0"), concat(Characters(((49, 57),)), Repeat(_DIGIT, 0, None))),
)
NUMBER = concat(
    INTEGER,
    optional(concat(Text("."), Repeat(_DIGIT, 1, None))),
    optional(
        concat(
            Characters(((69, 69), (101, 101))),
            optional(Characters(((43, 43), (45, 45)))),
            Repeat(_DIGIT, 1, None),
        )
    ),
)
STRING = concat(Text('"'), Repeat(Call(CHARACTER), 0, None), Text('"'))


def base_rules(separators: Separators) -> dict[str, Expression]:
    """The rules that schemas call: one character of a string, and any value at all."""
    any_value = Call(ANY_VALUE)
    value = choice(
        STRING,
        NUMBER,
        *[Text(word) for word in ("true", "false", "null")],
        bracketed("[", listed(any_value, 0, None, separators), "]"),
        bracketed("{", listed(member(STRING, any_value, separators), 0, None, separators), "}"),
    )
    return {CHARACTER: spelt(complement(Characters(()))), ANY_VALUE: value}


def spelt(part: Characters) -> Expression:
    """The spellings inside a string of one of these characters."""
    plain, options = [], []
    special = {*_CONTROLS, *_QUOTED}
    for low, high in part.ranges:
        options += [_escaped(code) for code in sorted(special) if low <= code <= high]
        plain += _meet((low, high))
    return choice(characters(plain), *options)


def _meet(wanted: tuple[int, int]) -> list[tuple[int, int]]:
    overlaps = [(max(wanted[0], low), min(wanted[1], high)) for low, high in _PLAIN.ranges]
    return [(low, high) for low, high in overlaps if low <= high]


def _escaped(code: int) -> Expression:
    options: list[Expression] = []
    if code in _QUOTED:
        options.append(Text("\\" + _QUOTED[code]))
    if code in _CONTROLS:
        options += [Text(f"\\u{code:04x}"), Text(f"\\u{code:04X}")][: 1 + (code % 16 > 9)]
    return Choice(tuple(options))


def spelt_inside(expression: Expression) -> Expression:
    """The texts of an expression as they stand inside a JSON string."""
    match expression:
        case Characters():
            return spelt(expression)
        case Text(text):
            return Concat(tuple(spelt(Characters(((ord(c), ord(c)),))) for c in text))
        case Concat(parts):
            return Concat(tuple(map(spelt_inside, parts)))
        case Choice(options):
            return Choice(tuple(map(spelt_inside, options)))
        case Repeat(part, least, most):
            return Repeat(spelt_inside(part), least, most)
        case Call():
            return expression


def bracketed(opening: str, inside: Expression, closing: str) -> Expression:
    """The inside between two brackets."""
    return concat(Text(opening), inside, Text(closing))


def member(key: Expression, value: Expression, separators: Separators) -> Expression:
    """One `"key": value` of an object."""
    return concat(key, Text(separators[1]), value)


def listed(item: Expression, least: int, most: int | None, separators: Separators) -> Expression:
    """From `least` to `most` items between item separators."""
    if most == 0:
        return Concat(())
    rest = concat(Text(separators[0]), item)
    some = concat(item, Repeat(rest, max(least - 1, 0), None if most is None else most - 1))
    return some if least > 0 else optional(some)


def constant(value: Any, separators: Separators) -> Text:
    """The one text of a JSON value; whole numbers without a fraction, as 1 for 1.0.

    Raises:
        ValueError: The value is infinite or no number.
    """
    whole = _whole_numbers(value)
    return Text(json.dumps(whole, ensure_ascii=False, separators=separators, allow_nan=False))


def _whole_numbers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_EXACT:
        return int(value)
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole_numbers(item) for key, item in value.items()}
    return value


def is_a(value: Any, name: str) -> bool:
    """Whether a value is of a JSON type; true and false are no numbers, 1.0 is an integer."""
    kinds: dict[str, tuple[type, ...]] = {
        "string": (str,),
        "array": (list,),
        "object": (dict,),
        "integer": (int, float),
        "number": (int, float),
        "boolean": (bool,),
        "null": (type(None),),
    }
    if isinstance(value, bool) and name != "boolean":
        return False
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, kinds[name])
