"""Both backends allow the same tokens, step by step, and so give the same texts."""

import json
import sys

import pytest
import torch

from labkit.inference.constraint import Constraint
from labkit.inference.structured.constraints import (
    json_constraint,
    json_object_constraint,
    regex_constraint,
)
from labkit.inference.structured.guidance import closed_objects
from labkit.runtime.errors import MissingDependencyError

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 9},
        "age": {"type": "integer"},
        'odd "näme"\n': {"enum": ["a", "äb\n", None, 1.0, [1, {"x": True}]]},
        "tags": {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 3},
    },
    "required": ["age", "tags"],
}
LIST = {
    "$ref": "#/$defs/list",
    "$defs": {
        "list": {
            "type": "object",
            "properties": {"v": {"type": "number"}, "next": {"$ref": "#/$defs/list"}},
            "required": ["v"],
        }
    },
}
SCHEMAS = [
    PERSON,
    LIST,
    {"type": "object"},
    {"type": "object", "additionalProperties": {"type": ["null", "boolean"]}},
    {"type": "array", "items": {"type": "array", "items": {"type": "number"}}, "minItems": 1},
    {"anyOf": [{"type": "string", "minLength": 2}, {"const": "é"}, {"type": "null"}]},
    {"type": "string", "pattern": r"^[a-dé]{1,3}(\\d+|\t\w)?[\"\\]?$"},
    {"type": "string", "pattern": "[0-9]x"},
    {},
]
PATTERNS = [
    r"\d{3}-\d{4}",
    r"(yes|no|y|maybe not)",
    r"[a-z_]\w*\(\)",
    r".{3,5}é?",
    r"(a|b)*?[^\w\s]{2}\n",
    r"[é-ü😀\]\\-]+/[^\x00-\x7f]?",
    r"\s?(\D\S|\W)+x",
    "",
]


def both_walk(ours, theirs, tokenizer, rng, most=40) -> bytes:
    """Go one way through both, and compare all they say at each step."""
    assert isinstance(ours, Constraint)
    assert isinstance(theirs, Constraint)
    text = b""
    for _ in range(most):
        mask = ours.allowed()
        assert torch.equal(mask, theirs.allowed()), text
        assert (ours.finished, ours.complete) == (theirs.finished, theirs.complete), text
        options = mask.nonzero().flatten().tolist()
        short = sorted(options, key=lambda index: len(tokenizer.token_bytes(index)))
        token = int(rng.choice(options if rng.random() < 0.4 else short[:12]))
        if tokenizer.eos_id in options and rng.random() < 0.3:
            token = tokenizer.eos_id
        ours.advance(token)
        theirs.advance(token)
        if token == tokenizer.eos_id:
            assert ours.finished
            assert theirs.finished
            assert torch.equal(ours.allowed(), theirs.allowed())
            break
        text += tokenizer.token_bytes(token)
    return text


@pytest.mark.parametrize("index", range(len(SCHEMAS)))
def test_equal_masks_for_schemas(mini, rng, index):
    for repetition in range(3):
        separators = (",", ":") if repetition == 2 else (", ", ": ")
        ours, theirs = (
            json_constraint(mini.tokenizer, SCHEMAS[index], backend=name, separators=separators)
            for name in ("hand", "llguidance")
        )
        both_walk(ours, theirs, mini.tokenizer, rng)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_equal_masks_for_regular_expressions(mini, rng, pattern):
    for _ in range(3):
        ours = regex_constraint(mini.tokenizer, pattern)
        theirs = regex_constraint(mini.tokenizer, pattern, backend="llguidance")
        both_walk(ours, theirs, mini.tokenizer, rng)


def test_equal_masks_over_a_real_vocabulary(smollm2, rng):
    tokenizer = smollm2.tokenizer
    for schema in (PERSON, {"type": "object"}):
        ours = json_constraint(tokenizer, schema)
        theirs = json_constraint(tokenizer, schema, backend="llguidance")
        both_walk(ours, theirs, tokenizer, rng)
    ours = regex_constraint(tokenizer, PATTERNS[3])
    both_walk(ours, regex_constraint(tokenizer, PATTERNS[3], backend="llguidance"), tokenizer, rng)


def test_a_copy_goes_its_own_way(mini):
    tokenizer = mini.tokenizer
    constraint = regex_constraint(tokenizer, "ab|b", backend="llguidance")
    other = constraint.copy()
    other.advance(tokenizer.token_id("b"))
    assert other.finished
    assert not constraint.finished
    assert constraint.allowed()[tokenizer.token_id("a")]


def test_what_may_not_come_is_refused_and_changes_nothing(mini):
    tokenizer = mini.tokenizer
    constraint = regex_constraint(tokenizer, "a", backend="llguidance")
    for token in (tokenizer.token_id("b"), tokenizer.eos_id, -1, 10**6):
        with pytest.raises(ValueError, match=f"token {token} may not come"):
            constraint.advance(token)
    constraint.advance(tokenizer.token_id("a"))
    assert constraint.finished
    constraint.advance(tokenizer.eos_id)
    constraint.advance(tokenizer.eos_id)
    with pytest.raises(ValueError, match="may not come"):
        constraint.advance(tokenizer.token_id("a"))


def test_padding_beyond_the_vocabulary_is_never_allowed(mini):
    V = mini.tokenizer.vocab_size
    constraint = json_object_constraint(mini.tokenizer, backend="llguidance", vocab_size=V + 40)
    mask = constraint.allowed()
    assert mask.shape == (V + 40,)
    assert not mask[V:].any()
    assert torch.equal(mask[:V], json_object_constraint(mini.tokenizer).allowed())


def test_it_knows_more_of_json_schema(mini):
    schema = {"type": "integer", "minimum": 10, "maximum": 19}
    with pytest.raises(ValueError, match="use backend='llguidance'"):
        json_constraint(mini.tokenizer, schema)
    constraint = json_constraint(mini.tokenizer, schema, backend="llguidance")
    assert [mini.tokenizer.token_bytes(i) for i in constraint.allowed().nonzero().tolist()[0]] == [
        b"1"
    ]


@pytest.mark.parametrize(
    "schema",
    [{"type": "text"}, {"anyOf": []}, False, {"$ref": "#/none"}, {"anyOf": 3}, {"properties": 3}],
)
def test_what_llguidance_refuses_is_a_value_error(mini, schema):
    with pytest.raises(ValueError, match=r"llguidance refuses|no schema"):
        json_constraint(mini.tokenizer, schema, backend="llguidance")


def test_the_regex_subset_is_the_same(mini):
    with pytest.raises(ValueError, match="is not supported"):
        regex_constraint(mini.tokenizer, r"\bx", backend="llguidance")


def test_closing_in_time_is_refused_rather_than_forgotten(mini):
    for make in (
        lambda: regex_constraint(mini.tokenizer, "a", backend="llguidance", close_within=9),
        lambda: json_object_constraint(mini.tokenizer, backend="llguidance", close_within=9),
    ):
        with pytest.raises(ValueError, match="close_within=9 needs backend='hand'"):
            make()


def test_without_the_package_the_way_out_is_told(mini, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingDependencyError, match="pip install llguidance"):
        json_object_constraint(mini.tokenizer, backend="llguidance")


def test_objects_are_closed_wherever_a_schema_stands():
    inner = {"type": "object", "properties": {"properties": {"type": "string"}}}
    shut = {**inner, "additionalProperties": False}
    assert closed_objects(inner) == shut
    open_one = {"type": "object", "properties": {}, "additionalProperties": inner}
    assert closed_objects(open_one)["additionalProperties"] == shut
    assert closed_objects({"anyOf": [inner, True]}) == {"anyOf": [shut, True]}
    assert closed_objects({"$defs": {"a": {"items": inner}}}) == {"$defs": {"a": {"items": shut}}}
    assert closed_objects({"const": inner, "enum": [inner]}) == {"const": inner, "enum": [inner]}
    assert closed_objects({"type": "object"}) == {"type": "object"}
    before = json.dumps(open_one)
    closed_objects(open_one)
    assert json.dumps(open_one) == before
