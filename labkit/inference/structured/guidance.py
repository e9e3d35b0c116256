"""The same constraints by `llguidance`, a compiled grammar engine, for real use.

It knows far more of JSON Schema and its masks take microseconds. What it is given here makes it
allow what the implementation by hand allows: fixed separators and no other white space, closed
objects, ASCII character classes.
"""

import json
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from labkit.inference.structured.json_schema import check_separators
from labkit.inference.structured.json_text import Separators
from labkit.model.tokenizer import Tokenizer
from labkit.runtime.errors import MissingDependencyError

_SCHEMAS = ("items", "additionalProperties")  # keywords that hold one schema
_LISTS = ("anyOf", "allOf", "oneOf", "prefixItems")  # a list of them
_MAPS = ("properties", "$defs", "definitions", "patternProperties")  # or named ones


class GuidanceConstraint:
    """Holds one text to a grammar, by llguidance's matcher.

    A text cut off by a token limit is a prefix of one that matches, as by hand.

    Args:
        matcher: An llguidance `LLMatcher` at its start.
        tokenizer: Whose end-of-sequence token ends the text.
        vocab_size: V of the masks.

    Raises:
        ValueError: llguidance refuses the grammar.
    """

    def __init__(self, matcher: Any, tokenizer: Tokenizer, vocab_size: int) -> None:
        if matcher.is_error():
            raise ValueError(f"llguidance refuses this: {matcher.get_error()}")
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size

    @property
    def complete(self) -> bool:
        """The text so far matches as it is."""
        return bool(self._matcher.is_accepting())

    @property
    def finished(self) -> bool:
        """The text is complete, and no token but the end of the sequence may follow."""
        return bool(self._matcher.is_stopped()) or (
            self.complete and int(self.allowed().sum()) == 1
        )

    def allowed(self) -> Bool[Tensor, "V"]:
        """True at every token that may come next; at least one is, also at the end."""
        mask = torch.zeros(self._vocab_size, dtype=torch.bool)
        if self._matcher.is_stopped():
            mask[self._tokenizer.eos_id] = True
            return mask
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        flags = np.unpackbits(bits, bitorder="little", count=self._tokenizer.vocab_size)
        mask[: len(flags)] = torch.from_numpy(flags).bool()
        return mask

    def advance(self, token: int) -> None:
        """Take a token that `allowed` holds.

        Raises:
            ValueError: The token may not come here.
        """
        if not (0 <= token < self._vocab_size and bool(self.allowed()[token])):
            raise ValueError(f"token {token} may not come here: draw one that allowed() holds")
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)

    def copy(self) -> "GuidanceConstraint":
        """The same state, advanced apart from this one; for n-best and beams."""
        return GuidanceConstraint(self._matcher.deep_copy(), self._tokenizer, self._vocab_size)


def regex_constraint(tokenizer: Tokenizer, pattern: str, vocab_size: int) -> GuidanceConstraint:
    """Texts that match a regular expression as a whole, its classes in ASCII."""
    library = _library()
    pattern = library.regex_to_lark(pattern, use_ascii="dws")
    [grammar] = json.loads(library.LLMatcher.grammar_from_regex(pattern))["grammars"]
    return _constraint(tokenizer, grammar["lark_grammar"], vocab_size)


def json_constraint(
    tokenizer: Tokenizer, schema: Any, separators: Separators, vocab_size: int
) -> GuidanceConstraint:
    """JSON texts that satisfy a schema, its objects closed as `closed_objects` does."""
    check_separators(separators)
    closed = closed_objects({} if schema is True else schema)
    if not isinstance(closed, dict):
        raise ValueError(f"{schema!r} is no schema that a text could satisfy")
    closed["x-guidance"] = {
        "item_separator": separators[0],
        "key_separator": separators[1],
        "whitespace_flexible": False,
    }
    return _constraint(tokenizer, f"start: %json {json.dumps(closed)}", vocab_size)


def closed_objects(schema: Any) -> Any:
    """The schema with `additionalProperties: false` wherever only `properties` are given."""
    if not isinstance(schema, dict):
        return schema
    closed = dict(schema)
    for keyword, value in schema.items():
        if keyword in _SCHEMAS:
            closed[keyword] = closed_objects(value)
        elif keyword in _LISTS and isinstance(value, list):
            closed[keyword] = [closed_objects(part) for part in value]
        elif keyword in _MAPS and isinstance(value, dict):
            closed[keyword] = {name: closed_objects(part) for name, part in value.items()}
    if "properties" in schema and "patternProperties" not in schema:
        closed.setdefault("additionalProperties", False)
    return closed


def _constraint(tokenizer: Tokenizer, lark: str, vocab_size: int) -> GuidanceConstraint:
    """A grammar in llguidance's own language.

    Without `no_forcing`, text that can go on in one way only would be allowed only in the tokens
    that the tokenizer itself cuts it into.
    """
    library = _library()
    grammar = library.LLMatcher.grammar_from_lark(f'%llguidance {{"no_forcing": true}}\n{lark}')
    matcher = library.LLMatcher(_wrapped(tokenizer), grammar, log_level=0)
    return GuidanceConstraint(matcher, tokenizer, vocab_size)


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.eos_token_id = tokenizer.eos_id
        self.bos_token_id = None
        self.tokens = [tokenizer.token_bytes(index) for index in range(tokenizer.vocab_size)]
        self.special_token_ids = sorted(tokenizer.special_ids)
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)


@lru_cache(maxsize=4)
def _wrapped(tokenizer: Tokenizer) -> Any:
    library = _library()
    return library.LLTokenizer(library.TokenizerWrapper(_Vocabulary(tokenizer)))


def _library() -> ModuleType:
    try:
        import llguidance
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "backend='llguidance' needs that package: pip install llguidance, or use backend='hand'"
        ) from error
    return llguidance
