"""Models held to a grammar: what they write parses, whole or as a prefix cut off by a limit."""

import json
import re

import pytest
import torch
from jsonschema import Draft202012Validator

from labkit.inference.constraint import Constraint
from labkit.inference.decoding import BatchDecoder
from labkit.inference.sampling import SamplingConfig, next_token_distribution, sample
from labkit.inference.structured import constraints
from labkit.inference.structured.constraints import (
    json_constraint,
    json_object_constraint,
    regex_constraint,
)
from labkit.inference.structured.diagram import trace
from labkit.model.zoo import Loaded

SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["fact", "joke", 'a "quoted" naïve\nline']},
        "scores": {"type": "array", "items": {"type": "number"}, "maxItems": 3},
        "child": {"$ref": "#"},
    },
    "required": ["title", "kind"],
    "additionalProperties": False,
}
CONFIG = SamplingConfig(temperature=1.3)


def write(loaded: Loaded, constraint: Constraint, gen: torch.Generator, most: int) -> list[int]:
    """Sample from the model's distribution over the allowed tokens."""
    prompt, tokens = loaded.tokenizer.encode("A list of facts: "), []
    decoder = BatchDecoder(loaded.model, [prompt], max_steps=most)
    logits = decoder.prefill()
    while len(tokens) < most:
        allowed = constraint.allowed()
        assert allowed.any()
        held = logits.masked_fill(~allowed, -torch.inf)
        [token] = sample(next_token_distribution(held, CONFIG), gen).tolist()
        constraint.advance(token)
        tokens.append(token)
        if token == loaded.tokenizer.eos_id:
            break
        logits = decoder.step(torch.tensor([token]))
    return tokens


def text_of(loaded: Loaded, tokens: list[int]) -> str:
    special = loaded.tokenizer.special_ids
    assert special.isdisjoint(tokens[:-1])
    return b"".join(loaded.tokenizer.token_bytes(t) for t in tokens if t not in special).decode()


@pytest.mark.parametrize("name", ["mini", "byte_loaded"])
def test_every_budgeted_text_validates(name, request, gen):
    loaded = request.getfixturevalue(name)
    for budget in (60, 75):
        constraint = json_constraint(loaded.tokenizer, SCHEMA, close_within=budget)
        tokens = write(loaded, constraint, gen, budget)
        assert tokens[-1] == loaded.tokenizer.eos_id
        value = json.loads(text_of(loaded, tokens))
        Draft202012Validator(SCHEMA).validate(value)


@pytest.mark.parametrize("name", ["mini", "byte_loaded"])
def test_any_object_and_a_pattern(name, request, gen):
    loaded = request.getfixturevalue(name)
    constraint = json_object_constraint(loaded.tokenizer, close_within=40)
    assert isinstance(json.loads(text_of(loaded, write(loaded, constraint, gen, 40))), dict)
    pattern = r"(\d{4}-\d\d-\d\d|[α-ω]{2,6}😀?)( and more)?"
    constraint = regex_constraint(loaded.tokenizer, pattern, close_within=40)
    assert re.fullmatch(pattern, text_of(loaded, write(loaded, constraint, gen, 40)))


def test_cut_off_anywhere_a_text_is_a_prefix_of_a_valid_one(mini, gen):
    tokens = write(mini, json_constraint(mini.tokenizer, SCHEMA), gen, 30)
    constraint = json_constraint(mini.tokenizer, SCHEMA)
    for cut, token in enumerate(tokens):
        shortest, text = constraint.copy(), tokens[:cut]
        while not shortest.complete:
            options = shortest.allowed().nonzero().flatten().tolist()
            left = {option: _left_after(shortest, option) for option in options}
            text = [*text, min(left, key=left.__getitem__)]
            shortest.advance(text[-1])
        Draft202012Validator(SCHEMA).validate(
            json.loads(text_of(mini, [*text, mini.tokenizer.eos_id]))
        )
        constraint.advance(token)


def _left_after(constraint, token: int) -> int:
    other = constraint.copy()
    other.advance(token)
    return other.tokens_to_finish()


def test_both_backends_write_the_same_text(mini):
    texts = [
        write(
            mini,
            json_constraint(mini.tokenizer, SCHEMA, backend=backend),
            torch.Generator().manual_seed(5),
            40,
        )
        for backend in ("hand", "llguidance")
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "value",
    [
        'say "hi"\\ and \n\t\x01 then',
        "ünïcödé 漢字 😀 \u2028",
        "</script> {}[],: null",
        "",
    ],
)
def test_a_tokenizers_own_spelling_of_any_string_is_allowed(mini, smollm2, value):
    for tokenizer in (mini.tokenizer, smollm2.tokenizer):
        for schema in ({"type": "string"}, {"const": value}, {"type": "string", "pattern": ".*"}):
            constraint = json_constraint(tokenizer, schema)
            for token in tokenizer.encode(json.dumps(value, ensure_ascii=False)):
                assert constraint.allowed()[token]
                constraint.advance(token)
            assert constraint.finished


def test_requests_share_what_was_compiled(mini):
    first = json_constraint(mini.tokenizer, SCHEMA)
    again = json_constraint(mini.tokenizer, json.loads(json.dumps(SCHEMA)), close_within=90)
    assert first.masks is again.masks
    assert first.masks is not json_constraint(mini.tokenizer, SCHEMA, separators=(",", ":")).masks
    assert first.masks is not json_constraint(mini.tokenizer, {"type": "object"}).masks
    swapped = {**SCHEMA, "properties": dict(reversed(SCHEMA["properties"].items()))}
    assert first.masks is not json_constraint(mini.tokenizer, swapped).masks


def test_grammars_that_have_grown_too_large_are_let_go(mini, monkeypatch):
    first = json_object_constraint(mini.tokenizer)
    monkeypatch.setattr(constraints, "MAX_KEPT_STATES", 1)
    first.allowed()
    json_object_constraint(mini.tokenizer)
    monkeypatch.undo()
    assert json_object_constraint(mini.tokenizer).masks is not first.masks
    assert first.allowed().any()


def test_masks_used_long_ago_are_forgotten_and_made_again(mini, monkeypatch):
    from labkit.inference.structured import masks

    monkeypatch.setattr(masks, "MAX_MASKS", 2)
    constraint = regex_constraint(mini.tokenizer, "x{9}yz")
    first, start = constraint.copy(), constraint.allowed()
    for letter in "xxxxx":
        constraint.allowed()
        constraint.advance(mini.tokenizer.token_id(letter))
    assert len(constraint.masks._masks) == 2
    assert torch.equal(first.allowed(), start)


def test_a_trace_shows_what_may_come(mini):
    tokenizer = mini.tokenizer
    constraint = regex_constraint(tokenizer, "yes|no")
    shown = trace(constraint, [tokenizer.token_id("n"), tokenizer.token_id("o")])
    assert [one.text for one in shown] == ["", "n", "no"]
    assert [one.complete for one in shown] == [False, False, True]
    assert shown[1].examples == ("o",)
    assert shown[2].examples == ("",)  # only the end of the sequence
    assert [one.num_allowed for one in shown][1:] == [1, 1]
    assert shown[0].examples[:2] == ("n", "y")
    assert shown[2].tokens_to_finish == 1
    assert constraint.allowed()[tokenizer.token_id("n")]  # a copy walked
