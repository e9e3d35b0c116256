"""What a request asks for, a regular expression, a JSON Schema or any object, as a constraint."""

import json
from functools import lru_cache
from typing import Any, Literal

from labkit.inference.constraint import Constraint
from labkit.inference.structured import guidance
from labkit.inference.structured.automaton import Automaton
from labkit.inference.structured.closing import Completions
from labkit.inference.structured.expression import Grammar
from labkit.inference.structured.grammar_constraint import GrammarConstraint
from labkit.inference.structured.json_schema import SEPARATORS, compile_schema
from labkit.inference.structured.json_text import Separators
from labkit.inference.structured.masks import TokenMasks
from labkit.inference.structured.regex import parse_regex
from labkit.inference.structured.trie import TokenTrie
from labkit.model.tokenizer import Tokenizer

Backend = Literal["hand", "llguidance"]

ANY_OBJECT = {"type": "object"}
MAX_KEPT_STATES = 50_000


def regex_constraint(
    tokenizer: Tokenizer,
    pattern: str,
    *,
    backend: Backend = "hand",
    close_within: int | None = None,
    vocab_size: int | None = None,
) -> Constraint:
    """Texts that match a regular expression as a whole.

    Args:
        tokenizer: Byte-level, with an end-of-sequence token.
        pattern: Of the subset that `labkit.inference.structured.regex` states; classes such as
            `\\d` are ASCII.
        backend: "hand" (this package) or "llguidance".
        close_within: See `GrammarConstraint`; only by hand.
        vocab_size: V of the model's logits, where it is padded beyond the tokenizer's.

    Raises:
        ValueError: The pattern is not of the subset, or no text is short enough.
        MissingDependencyError: backend="llguidance" without that package.
    """
    size = tokenizer.vocab_size if vocab_size is None else vocab_size
    if backend == "llguidance":
        _refuse_closing(close_within)
        parse_regex(pattern)  # the same subset, refused with the same words
        return guidance.regex_constraint(tokenizer, pattern, size)
    return _by_hand(tokenizer, size, pattern, None, close_within)


def json_constraint(
    tokenizer: Tokenizer,
    schema: Any,
    *,
    backend: Backend = "hand",
    separators: Separators = SEPARATORS,
    close_within: int | None = None,
    vocab_size: int | None = None,
) -> Constraint:
    """JSON texts that satisfy a schema; see `json_schema` for the subset and its three choices.

    Args:
        tokenizer: Byte-level, with an end-of-sequence token.
        schema: As `json.loads` reads it: a dict, or True for any value.
        backend: "hand" or "llguidance"; the latter knows more keywords, and obeys the same three
            choices.
        separators: Text between items and after a key, as `json.dumps` takes them.
        close_within: See `GrammarConstraint`; only by hand.
        vocab_size: V of the model's logits, where it is padded beyond the tokenizer's.

    Raises:
        ValueError: The schema is malformed or not supported, or no text is short enough.
        MissingDependencyError: backend="llguidance" without that package.
    """
    size = tokenizer.vocab_size if vocab_size is None else vocab_size
    if backend == "llguidance":
        _refuse_closing(close_within)
        return guidance.json_constraint(tokenizer, schema, separators, size)
    return _by_hand(tokenizer, size, json.dumps(schema), separators, close_within)


def json_object_constraint(
    tokenizer: Tokenizer,
    *,
    backend: Backend = "hand",
    separators: Separators = SEPARATORS,
    close_within: int | None = None,
    vocab_size: int | None = None,
) -> Constraint:
    """Any JSON object, as `response_format={"type": "json_object"}` asks; see `json_constraint`."""
    return json_constraint(
        tokenizer,
        ANY_OBJECT,
        backend=backend,
        separators=separators,
        close_within=close_within,
        vocab_size=vocab_size,
    )


@lru_cache(maxsize=4)
def token_trie(tokenizer: Tokenizer, vocab_size: int) -> TokenTrie:
    """The tokenizer's vocabulary as a trie, without special tokens; kept for the last few."""
    special = tokenizer.special_ids
    tokens = [
        None if index in special else tokenizer.token_bytes(index)
        for index in range(tokenizer.vocab_size)
    ]
    if vocab_size < len(tokens):
        raise ValueError(f"vocab_size={vocab_size} is below the tokenizer's {len(tokens)}")
    return TokenTrie(tokens + [None] * (vocab_size - len(tokens)))


def _by_hand(
    tokenizer: Tokenizer,
    vocab_size: int,
    source: str,
    separators: Separators | None,
    close_within: int | None,
) -> GrammarConstraint:
    completions = _compiled(tokenizer, vocab_size, source, separators)
    if len(completions.masks.automaton) > MAX_KEPT_STATES:  # nesting has no end of states
        _compiled.cache_clear()
    return GrammarConstraint(completions, close_within=close_within)


@lru_cache(maxsize=32)
def _compiled(
    tokenizer: Tokenizer, vocab_size: int, source: str, separators: Separators | None
) -> Completions:
    """A regular expression (no separators) or a schema, compiled once for all its requests."""
    trie = token_trie(tokenizer, vocab_size)
    if separators is None:
        grammar = Grammar({"text": parse_regex(source)}, "text")
    else:
        grammar = compile_schema(json.loads(source), separators)
    automaton = Automaton(grammar, trie.spellable)
    return Completions(TokenMasks(trie, automaton, tokenizer.eos_id))


def _refuse_closing(close_within: int | None) -> None:
    if close_within is not None:
        raise ValueError(
            f"close_within={close_within} needs backend='hand': llguidance does not tell how "
            "far a text is from its end"
        )
