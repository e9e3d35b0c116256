"""What is accepted satisfies the schema by `jsonschema`, and what satisfies it is accepted."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from labkit.inference.structured.automaton import Automaton
from labkit.inference.structured.constraints import json_constraint, json_object_constraint
from labkit.inference.structured.guidance import closed_objects
from labkit.inference.structured.json_schema import compile_schema

TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "number"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
            },
            "required": ["value"],
        }
    },
}
ALL_OPTIONAL = {
    "type": "object",
    "properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}},
}


def accepts(schema, text: str, separators=(", ", ": ")) -> bool:
    automaton = Automaton(compile_schema(schema, separators))
    return automaton.accepting(automaton.read(text.encode()))


def written(value) -> str:
    return json.dumps(value, ensure_ascii=False)


def valid(schema, value) -> bool:
    return Draft202012Validator(closed_objects(schema)).is_valid(value)


TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
LEAVES = st.one_of(
    TEXT.map(lambda value: ({"type": "string"}, value)),
    TEXT.map(lambda value: ({"type": "string", "minLength": len(value)}, value)),
    TEXT.map(lambda value: ({"type": "string", "maxLength": len(value)}, value)),
    st.integers().map(lambda value: ({"type": "integer"}, value)),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda x: ({"type": "number"}, x)),
    st.integers().map(lambda value: ({"type": ["string", "number"]}, value)),
    st.booleans().map(lambda value: ({"type": "boolean"}, value)),
    st.just(({"type": "null"}, None)),
    TEXT.map(lambda value: ({"const": value}, value)),
    TEXT.map(lambda value: ({"enum": [1, value, None], "type": ["string", "null"]}, value)),
    TEXT.map(lambda value: (True, [value, {value: 1.5}])),
    TEXT.map(lambda value: ({"type": "object"}, {value: {value: [None]}})),
    st.from_regex(r"\A[a-c]{2}\Z").map(lambda x: ({"type": "string", "pattern": "^[a-c]{2}$"}, x)),
)


@st.composite
def objects(draw, pairs):
    members = draw(st.dictionaries(TEXT, pairs, max_size=3))
    schema = {name: schema for name, (schema, _) in members.items()}
    present = [name for name in members if draw(st.booleans())]
    required = [name for name in present if draw(st.booleans())]
    value = {name: members[name][1] for name in present}
    return {"type": "object", "properties": schema, "required": required}, value


def arrays(pairs):
    def array(found, count):
        schema, value = found
        limits = {"minItems": count // 2, "maxItems": count}
        return {"type": "array", "items": schema, **limits}, [value] * count

    return st.builds(array, pairs, st.integers(0, 3))


PAIRS = st.recursive(
    LEAVES,
    lambda pairs: st.one_of(
        objects(pairs),
        arrays(pairs),
        st.tuples(pairs, pairs).map(lambda two: ({"anyOf": [two[0][0], two[1][0]]}, two[1][1])),
        pairs.map(lambda p: ({"type": "object", "additionalProperties": p[0]}, {"k": p[1]})),
    ),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_what_satisfies_a_schema_is_accepted(pair):
    schema, value = pair
    assert valid(schema, value)
    assert accepts(schema, written(value))
    compact = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert accepts(schema, compact, (",", ":"))


@settings(max_examples=60, deadline=None)
@given(PAIRS, PAIRS)
def test_what_does_not_satisfy_a_schema_is_not_accepted(pair, other):
    schema, value = pair[0], other[1]
    if not valid(schema, value):
        assert not accepts(schema, written(value))


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(pair=PAIRS)
def test_whatever_is_drawn_satisfies_the_schema(byte_tokenizer, walk, pair):
    budget = json_constraint(byte_tokenizer, pair[0]).tokens_to_finish() + 25
    constraint = json_constraint(byte_tokenizer, pair[0], close_within=budget)
    tokens = walk(constraint, byte_tokenizer.eos_id, budget)
    assert tokens[-1] == byte_tokenizer.eos_id
    text = b"".join(map(byte_tokenizer.token_bytes, tokens[:-1])).decode()
    Draft202012Validator(closed_objects(pair[0])).validate(json.loads(text))


@pytest.mark.parametrize(
    ("schema", "texts", "refused"),
    [
        ({"type": "integer"}, ["0", "-12", "-0"], ["01", "1.0", "1e3", "+1", "-", ""]),
        ({"type": "number"}, ["0", "-1.50", "1e3", "2.5E-10"], [".5", "1.", "01.5", "1e", "NaN"]),
        ({"type": "string"}, ['""', '"\\n\\u000B"', '"é😀"'], ['"\n"', '"\\x"', '"\\/"', '"']),
        ({"type": "string"}, ['"\\u007f"'], ['"\\u0041"', '"\\ud800"', '"\x7f"', '"a"b"']),
        ({"type": "string", "maxLength": 2}, ['"é\\n"', '"😀😀"'], ['"abc"', '"\\n\\n\\n"']),
        ({"type": "string", "minLength": 2}, ['"é\\u0001"'], ['"é"', '"\\n"', '""']),
        ({"type": "string", "pattern": "b$"}, ['"b"', '"\\"b"', '"\\\\b"'], ['"ba"', '"\\b"']),
        ({"type": "string", "pattern": '^."$'}, ['"a\\""', '"\\"\\""'], ['"a""', '"\\n\\""']),
        ({"type": "string", "pattern": "^\\s\\\\$"}, ['"\\t\\\\"', '" \\\\"'], ['"\t\\\\"']),
        ({"type": "array", "items": {"type": "null"}}, ["[]", "[null, null]"], ["[null,null]"]),
        ({"type": "array", "maxItems": 0}, ["[]"], ["[1]", "[ ]"]),
        ({"type": "array", "minItems": 2, "maxItems": 3}, ["[1, {}]"], ["[1]", "[1, 2, 3, 4]"]),
        ({"const": {"b": [1.0, "é"]}}, ['{"b": [1, "é"]}'], ['{"b": [1.0, "é"]}', "{}"]),
        ({"enum": ["x", 2, True], "type": "integer"}, ["2"], ['"x"', "true"]),
        ({"enum": [1.0, 1.5], "type": "integer"}, ["1"], ["1.5"]),
        ({"anyOf": [{"const": "ab"}, {"const": "ac"}]}, ['"ab"', '"ac"'], ['"a"', '"ad"']),
        ({"type": "object"}, ["{}", '{"a": {"a": []}}'], ["[]", "{,}", '{"a"}', '{"a": 1, }']),
        ({"type": "object", "properties": {}}, ["{}"], ['{"a": 1}']),
        (ALL_OPTIONAL, ["{}", '{"b": null}', '{"a": null, "c": null}'], ['{"c": null, "a": null}']),
        (ALL_OPTIONAL, ['{"a": null, "b": null, "c": null}'], ['{"b": null, }', '{, "b": null}']),
        ({**ALL_OPTIONAL, "required": ["b"]}, ['{"b": null}'], ["{}", '{"a": null}']),
        (TREE, ['{"value": 1, "children": [{"value": 2}]}'], ["{}", '{"value": 1, "children": 2}']),
        ({}, ["null", '[{"a": "b"}]', "-1.5"], ["nul", "[1 2]", "{1: 2}"]),
        ({"description": "any", "default": 3}, ["true", "[]"], ["True"]),
    ],
)
def test_texts_by_hand(schema, texts, refused):
    assert [text for text in texts if not accepts(schema, text)] == []
    assert [text for text in refused if accepts(schema, text)] == []


def test_references_reach_any_part_of_the_document():
    schema = {
        "type": "object",
        "properties": {
            "a/b~": {"type": "integer"},
            "same": {"$ref": "#/properties/a~1b~0", "description": "as above"},
            "again": {"anyOf": [{"$ref": "#"}, {"$ref": "#/definitions/none"}]},
        },
        "definitions": {"none": {"type": "null"}},
    }
    assert accepts(schema, '{"a/b~": 1, "same": 2, "again": {"again": {"again": null}}}')
    assert not accepts(schema, '{"same": "x"}')


def test_nesting_has_no_bound():
    depth = 200
    assert accepts({"type": "object"}, '{"a": [' * depth + "]}" * depth)
    assert not accepts({"type": "object"}, '{"a": [' * depth + "}]" * depth)


def test_forty_optional_and_nested_members_stay_small():
    leaf: dict = {"type": "integer"}
    for _ in range(8):
        leaf = {"type": "object", "properties": {"x": leaf, "y": leaf}}
    names = {f"p{index}": {"type": "integer"} for index in range(40)}
    wide = {"type": "object", "properties": names}
    deep = {"type": "object", "properties": {f"q{i}": {"$ref": "#/$defs/leaf"} for i in range(5)}}
    deep["$defs"] = {"leaf": leaf}
    assert accepts(wide, '{"p3": 1, "p39": 2}')
    assert accepts(deep, '{"q4": {"y": {"x": {}}}}')


def test_any_object_of_a_request(byte_tokenizer, walk):
    constraint = json_object_constraint(byte_tokenizer, close_within=60)
    tokens = walk(constraint, byte_tokenizer.eos_id, 60)
    text = b"".join(map(byte_tokenizer.token_bytes, tokens[:-1])).decode()
    assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "integer", "minimum": 3}, "'minimum' is not supported for type 'integer'"),
        ({"type": "string", "format": "date"}, "'format'"),
        ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
        ({"type": "object", "patternProperties": {}}, "'patternProperties'"),
        ({"oneOf": [{}]}, "'oneOf' is not supported without 'type'"),
        ({"properties": {"a": {}}}, "'properties' is not supported without 'type'"),
        ({"$ref": "#/$defs/a", "minLength": 3}, "'minLength' is not supported beside"),
        ({"anyOf": [{}], "type": "string"}, "'type' is not supported beside 'anyOf'"),
        ({"const": 3, "minLength": 3}, "beside 'const'"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, "'maxLength' .* beside 'pattern'"),
        ({"type": "string", "pattern": "(?=a)"}, "group other than"),
        ({"type": "text"}, "type 'text' is none of"),
        ({"type": {"a": 1}}, "is none of"),
        ({"type": "object", "properties": ["a"]}, "must be an object"),
        ({"type": "object", "required": "a"}, "must be an object, and required a list"),
        ({"type": "object", "required": [{}]}, "not listed in properties"),
        ({"type": "string", "pattern": 3}, "pattern 3 must be a string"),
        ({"const": "\ud800"}, "surrogates not allowed"),
        ({"anyOf": {"a": 1}}, "at least one"),
        ({"type": "string", "minLength": 4, "maxLength": 3}, "minLength=4 is above maxLength=3"),
        ({"type": "array", "minItems": -1}, "minItems=-1"),
        ({"type": "array", "items": {"type": "array", "items": False}}, "#/items/items: False"),
        ({"type": "object", "properties": {"a": {}}, "required": ["b"]}, r"required \['b'\]"),
        (
            {"type": "object", "properties": {"a": {}}, "additionalProperties": True},
            "'additionalProperties' is not supported beside 'properties'",
        ),
        ({"$ref": "http://x/y"}, "must point into this schema"),
        ({"$ref": "#/$defs/a"}, "points to nothing"),
        ({"$ref": "#"}, "'#' refers to itself before any text"),
        ({"anyOf": []}, "at least one"),
        ({"enum": []}, "none of the values"),
        ({"enum": "ab"}, "enum must be a list"),
        ({"enum": ["a"], "type": "null"}, "none of the values"),
        (False, "no schema that a text could satisfy"),
        ([], "no schema"),
        ({"const": float("nan")}, "not JSON compliant"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "no finite text"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(byte_tokenizer, schema, reason):
    with pytest.raises(ValueError, match=reason):
        json_constraint(byte_tokenizer, schema)


def test_deep_schemas_are_refused_rather_than_exhausting_the_stack(byte_tokenizer):
    schema: dict = {"type": "null"}
    for _ in range(80):
        schema = {"type": "array", "items": schema}
    with pytest.raises(ValueError, match="nests too deeply"):
        json_constraint(byte_tokenizer, schema)


def test_a_chain_of_many_references_is_no_deep_schema():
    names = [f"d{index}" for index in range(150)]
    defs = {
        name: {"type": "array", "items": {"$ref": f"#/$defs/{after}"}}
        for name, after in zip(names, [*names[1:], "end"], strict=True)
    }
    schema = {"$ref": "#/$defs/d0", "$defs": {**defs, "end": {"type": "null"}}}
    assert accepts(schema, "[" * 150 + "null" + "]" * 150)


@pytest.mark.parametrize("separators", [(";", ": "), (", ", "="), ("", ":"), (",x", ":")])
def test_separators_must_be_json(byte_tokenizer, separators):
    for backend in ("hand", "llguidance"):
        with pytest.raises(ValueError, match="must be a comma and a colon"):
            json_constraint(byte_tokenizer, {}, separators=separators, backend=backend)
