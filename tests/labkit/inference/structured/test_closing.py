"""A budget: refused when too small, and otherwise every text is complete within it."""

import json
import math
import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.inference.structured import closing
from labkit.inference.structured.constraints import json_constraint, regex_constraint

PATTERNS = [
    "a*b",
    "(ab|é){2,}",
    "a{4}|bé",
    "aab(ab)*x?",
    "(a|bé)?éé[ab]{0,3}",
    "éé|bbb",
    "[abé]{3}",
]


def fewest_tokens(tokenizer, texts: list[bytes]) -> float:
    """Over all texts and all their cuts into tokens, the end not counted."""
    vocabulary = {tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)} - {
        tokenizer.token_bytes(i) for i in tokenizer.special_ids
    }
    best = math.inf
    for text in texts:
        cost = [0.0] + [math.inf] * len(text)
        for end in range(1, len(text) + 1):
            for begin in range(end):
                if text[begin:end] in vocabulary:
                    cost[end] = min(cost[end], cost[begin] + 1)
        best = min(best, cost[-1])
    return best


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_smallest_budget_that_suffices_is_taken_and_one_less_refused(
    small_tokenizer, language, pattern
):
    fewest = int(fewest_tokens(small_tokenizer, language(pattern, 6))) + 1
    for budget in range(fewest):
        with pytest.raises(ValueError, match=f"budget of {budget} tokens is too small"):
            regex_constraint(small_tokenizer, pattern, close_within=budget)
    for budget in (fewest, fewest + 1, fewest + 9):
        regex_constraint(small_tokenizer, pattern, close_within=budget)


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(pattern=st.sampled_from(PATTERNS), more=st.integers(0, 6), choices=st.integers(0, 2**60))
def test_every_text_within_a_budget_is_complete(small_tokenizer, language, pattern, more, choices):
    fewest = int(fewest_tokens(small_tokenizer, language(pattern, 6))) + 1
    constraint = regex_constraint(small_tokenizer, pattern, close_within=fewest + more)
    read, ended = b"", False
    for _ in range(fewest + more):
        options = constraint.allowed().nonzero().flatten().tolist()
        choices, index = divmod(choices, len(options))
        constraint.advance(options[index])
        ended = options[index] == small_tokenizer.eos_id
        if ended:
            break
        read += small_tokenizer.token_bytes(options[index])
    assert ended
    assert re.fullmatch(pattern, read.decode())


def test_far_from_its_end_a_budget_forbids_nothing(small_tokenizer):
    free = regex_constraint(small_tokenizer, "a*(bé)*")
    held = regex_constraint(small_tokenizer, "a*(bé)*", close_within=40)
    assert torch.equal(free.allowed(), held.allowed())


def test_near_the_end_only_tokens_that_can_still_close(small_tokenizer):
    constraint = regex_constraint(small_tokenizer, "a*b", close_within=3)

    def allowed() -> set[bytes]:
        mask = constraint.allowed()
        return {small_tokenizer.token_bytes(i) for i in mask.nonzero().flatten().tolist()}

    assert allowed() == {b"a", b"aaaa", b"b", b"ab", b"aab"}
    assert constraint.tokens_to_finish() == 2
    constraint.advance(small_tokenizer.token_id("aaaa"))
    assert allowed() == {b"b", b"ab", b"aab"}  # the end itself still needs one
    with pytest.raises(ValueError, match="may not come here"):
        constraint.advance(small_tokenizer.token_id("a"))
    copied = constraint.copy()
    assert torch.equal(copied.allowed(), constraint.allowed())
    for one in (constraint, copied):
        one.advance(small_tokenizer.token_id("ab"))
        assert one.finished


def test_a_longer_text_of_fewer_tokens_is_found(small_tokenizer):
    held = regex_constraint(small_tokenizer, "aaaa|bxb", close_within=2)
    assert held.tokens_to_finish() == 2
    [token] = held.allowed().nonzero().flatten().tolist()
    assert small_tokenizer.token_bytes(token) == b"aaaa"


def test_the_search_gives_up_and_says_what_it_knows(small_tokenizer, monkeypatch):
    monkeypatch.setattr(closing, "MAX_SEARCHED", 0)
    with pytest.raises(ValueError, match="too small: the shortest text needs 4"):
        regex_constraint(small_tokenizer, "bxb|abababaaaa|éaaaaaaaax", close_within=3)


def test_json_closes_in_time(byte_tokenizer, walk):
    schema = {"type": "array", "items": {"type": "string"}, "minItems": 2}
    with pytest.raises(ValueError, match=r"budget of 8 .* needs 9"):
        json_constraint(byte_tokenizer, schema, close_within=8)  # ["", ""] and the end
    for budget in (9, 10, 12, 30):
        constraint = json_constraint(byte_tokenizer, schema, close_within=budget)
        tokens = walk(constraint, byte_tokenizer.eos_id, budget)
        assert tokens[-1] == byte_tokenizer.eos_id
        assert len(json.loads(byte_tokenizer.decode(tokens))) >= 2


def test_a_long_text_closes_within_a_budget_far_below_its_bytes(small_tokenizer, rng):
    """300 letters in tokens of four: 75, one for x, one for the end."""
    with pytest.raises(ValueError, match="needs 77"):
        regex_constraint(small_tokenizer, "[ab]{300}x", close_within=76)
    constraint = regex_constraint(small_tokenizer, "[ab]{300}x", close_within=90)
    read = b""
    for _ in range(90):
        token = int(rng.choice(constraint.allowed().nonzero().flatten().numpy()))
        constraint.advance(token)
        if token == small_tokenizer.eos_id:
            break
        read += small_tokenizer.token_bytes(token)
    assert re.fullmatch("[ab]{300}x", read.decode())
