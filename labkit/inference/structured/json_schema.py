"""JSON Schema, a stated subset, as a grammar of the JSON texts that satisfy it.

Supported: `type` (one or a list), `enum`, `const`, `anyOf`, `$ref` within the document (recursive
too: each target becomes a rule of a pushdown grammar, so nesting has no bound); strings with
`minLength`, `maxLength` or `pattern`; arrays with `items`, `minItems`, `maxItems`; objects with
`properties`, `required`, `additionalProperties`. Annotations (`title`, `description`, …) are
skipped; every other keyword is refused by name, since skipping it would let invalid texts through.

Three choices narrow the texts to one spelling: members come in the order of `properties`;
`additionalProperties` is false where `properties` are listed and it is absent (JSON Schema's own
default is true); white space stands only in the separators. Classes in `pattern` are ASCII, whereas
ECMA-262's `\\s` knows more spaces.
"""

from collections.abc import Callable
from typing import Any

from labkit.inference.structured import json_text
from labkit.inference.structured.expression import (
    Call,
    Choice,
    Concat,
    Expression,
    Grammar,
    Repeat,
    Text,
    choice,
    concat,
    optional,
)
from labkit.inference.structured.json_text import Separators
from labkit.inference.structured.regex import parse_search

SEPARATORS: Separators = (", ", ": ")
MAX_NESTING = 20

_ANNOTATIONS = frozenset(
    {"$schema", "$id", "$comment", "$defs", "definitions", "title", "description"}
    | {"default", "examples", "deprecated", "readOnly", "writeOnly"}
)
_KEYWORDS = {
    "string": {"minLength", "maxLength", "pattern"},
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
    "integer": set[str](),
    "number": set[str](),
    "boolean": set[str](),
    "null": set[str](),
}
_ANY = Call(json_text.ANY_VALUE)


def compile_schema(schema: Any, separators: Separators = SEPARATORS) -> Grammar:
    """The grammar of the JSON texts that satisfy a schema.

    Args:
        schema: As `json.loads` reads it.
        separators: Text between items and text after a key, as `json.dumps` takes them.

    Raises:
        ValueError: A keyword is not supported or malformed; its place in the schema is told.
    """
    check_separators(separators)
    return _Compiler(schema, separators).grammar()


def check_separators(separators: Separators) -> None:
    """Refuse separators that are not a comma and a colon with spaces around."""
    if (separators[0].strip(" \n\t"), separators[1].strip(" \n\t")) != (",", ":"):
        raise ValueError(f"separators={separators} must be a comma and a colon, with white space")


class _Compiler:
    """Walks one schema; `place` is a JSON pointer to where it is."""

    def __init__(self, document: Any, separators: Separators) -> None:
        self._document = document
        self._separators = separators
        self._rules = json_text.base_rules(separators)
        self._waiting: dict[str, Any] = {}
        self._by_type: dict[str, Callable[[dict[str, Any], str], Expression]] = {
            "string": self._string,
            "array": self._array,
            "object": self._object,
            "integer": lambda schema, place: json_text.INTEGER,
            "number": lambda schema, place: json_text.NUMBER,
            "boolean": lambda schema, place: choice(Text("true"), Text("false")),
            "null": lambda schema, place: Text("null"),
        }

    def grammar(self) -> Grammar:
        start = self._reference("#", "#").rule
        while self._waiting:
            target, schema = self._waiting.popitem()
            self._rules[target] = self._schema(schema, target)
        return Grammar(self._rules, start)

    def _reference(self, target: str, place: str) -> Call:
        if target not in self._rules:
            self._waiting[target] = self._resolve(target, place)
            self._rules[target] = Choice(())  # filled later: it may refer to itself
        return Call(target)

    def _resolve(self, target: Any, place: str) -> Any:
        if not isinstance(target, str) or not (target == "#" or target.startswith("#/")):
            raise ValueError(f"{place}: $ref {target!r} must point into this schema (#/$defs/…)")
        found = self._document
        for part in target.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or name not in found:
                raise ValueError(f"{place}: $ref {target!r} points to nothing")
            found = found[name]
        return found

    def _schema(self, schema: Any, place: str) -> Expression:
        if place.count("/") > 2 * MAX_NESTING:
            raise ValueError(f"{place[:60]}…: the schema nests too deeply; use $ref")
        if schema is True:
            return _ANY
        if not isinstance(schema, dict):
            raise ValueError(f"{place}: {schema!r} is no schema that a text could satisfy")
        keywords = set(schema) - _ANNOTATIONS
        for keyword, build in (
            ("$ref", lambda: self._reference(schema["$ref"], place)),
            ("anyOf", lambda: self._any_of(schema["anyOf"], place)),
            ("const", lambda: self._constants(schema, [schema["const"]], place)),
            ("enum", lambda: self._constants(schema, schema["enum"], place)),
        ):
            if keyword in keywords:
                beside = {"type"} if keyword in ("const", "enum") else set()
                self._refuse(keywords - {keyword} - beside, place, f"beside {keyword!r}")
                return build()
        if "type" not in schema:
            self._refuse(keywords, place, "without 'type'")
            return _ANY
        return self._typed(schema, keywords - {"type"}, place)

    def _refuse(self, keywords: set[str], place: str, where: str) -> None:
        if keywords:
            raise ValueError(
                f"{place}: keyword {', '.join(map(repr, sorted(keywords)))} is not supported "
                f"{where}: leave it out, or use backend='llguidance', which knows more"
            )

    def _typed(self, schema: dict[str, Any], keywords: set[str], place: str) -> Expression:
        names = _types(schema, place)
        known = set().union(*(_KEYWORDS[name] for name in names))
        self._refuse(keywords - known, place, f"for type {schema['type']!r}")
        return Choice(tuple(self._by_type[name](schema, place) for name in names))

    def _any_of(self, options: Any, place: str) -> Expression:
        if not isinstance(options, list) or not options:
            raise ValueError(f"{place}: anyOf must be a list of at least one schema")
        return Choice(
            tuple(self._schema(option, f"{place}/anyOf/{i}") for i, option in enumerate(options))
        )

    def _constants(self, schema: dict[str, Any], values: Any, place: str) -> Expression:
        if not isinstance(values, list):
            raise ValueError(f"{place}: enum must be a list, not {values!r}")
        names = _types(schema, place) if "type" in schema else list(_KEYWORDS)
        fitting = [value for value in values if any(json_text.is_a(value, name) for name in names)]
        if not fitting:
            raise ValueError(f"{place}: none of the values {values} is of type {names}")
        return Choice(tuple(json_text.constant(value, self._separators) for value in fitting))

    def _string(self, schema: dict[str, Any], place: str) -> Expression:
        least, most = _bounds(schema, "minLength", "maxLength", place)
        if "pattern" not in schema:
            inside: Expression = Repeat(Call(json_text.CHARACTER), least, most)
        else:
            if not isinstance(schema["pattern"], str):
                raise ValueError(f"{place}: pattern {schema['pattern']!r} must be a string")
            lengths = {"minLength", "maxLength"} & set(schema)
            self._refuse(lengths, place, "beside 'pattern'")
            inside = json_text.spelt_inside(parse_search(schema["pattern"]))
        return json_text.bracketed('"', inside, '"')

    def _array(self, schema: dict[str, Any], place: str) -> Expression:
        least, most = _bounds(schema, "minItems", "maxItems", place)
        item = self._named(self._schema(schema.get("items", True), f"{place}/items"))
        inside = json_text.listed(item, least, most, self._separators)
        return json_text.bracketed("[", inside, "]")

    def _object(self, schema: dict[str, Any], place: str) -> Expression:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise ValueError(f"{place}: properties must be an object, and required a list")
        if unknown := [name for name in required if name not in list(properties)]:
            raise ValueError(f"{place}: required {unknown} are not listed in properties")
        more = schema.get("additionalProperties", "properties" not in schema)
        if more is False:
            members = self._members(properties, set(required), place)
            return json_text.bracketed("{", members, "}")
        if properties:
            self._refuse({"additionalProperties"}, place, "beside 'properties' unless false")
        value = self._schema(more, f"{place}/additionalProperties")
        member = json_text.member(json_text.STRING, value, self._separators)
        return json_text.bracketed("{", json_text.listed(member, 0, None, self._separators), "}")

    def _members(self, properties: dict[str, Any], required: set[str], place: str) -> Expression:
        """The members in order, the optional ones or not, with a comma between any two.

        From the back: `behind` is what may follow a member, `first` what may follow the bracket.
        """
        first: Expression = Concat(())
        behind: Expression = Concat(())
        for name in reversed(properties):
            where = f"{place}/properties/{name.replace('~', '~0').replace('/', '~1')}"
            key = json_text.constant(name, self._separators)
            value = self._schema(properties[name], where)
            one = self._named(json_text.member(key, value, self._separators))
            tail = self._named(behind)
            here = concat(one, tail)
            first = here if name in required else choice(here, first)
            more = concat(Text(self._separators[0]), one)
            behind = concat(more if name in required else optional(more), tail)
        return first

    def _named(self, expression: Expression) -> Call:
        """Make a rule of a part that is used twice; copies would double with every nesting."""
        name = f"part {len(self._rules)}"
        self._rules[name] = expression
        return Call(name)


def _types(schema: dict[str, Any], place: str) -> list[str]:
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    for name in names:
        if not isinstance(name, str) or name not in _KEYWORDS:
            raise ValueError(f"{place}: type {name!r} is none of {sorted(_KEYWORDS)}")
    return names


def _bounds(schema: dict[str, Any], low: str, high: str, place: str) -> tuple[int, int | None]:
    least, most = schema.get(low, 0), schema.get(high)
    for value in (least, 0 if most is None else most):
        if not isinstance(value, int) or value < 0:
            raise ValueError(f"{place}: {low}={least!r}, {high}={most!r} must be whole, at least 0")
    if most is not None and most < least:
        raise ValueError(f"{place}: {low}={least} is above {high}={most}")
    return least, most
