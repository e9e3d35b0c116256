"""Small vocabularies, walks through a constraint, and languages written out in full."""

import itertools
import re
from collections.abc import Callable

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models
from tokenizers.pre_tokenizers import ByteLevel

from labkit.inference.constraint import Constraint
from labkit.model.tokenizer import Tokenizer

TOKENS = [
    *[bytes([byte]) for byte in "abéx".encode()],
    *[b"ab", b"ba", b"aab", "é".encode(), "éé".encode(), "bé".encode(), b"aaaa"],
    *["aé".encode()[:2], "éb".encode()[1:], "éa".encode()[1:], "ééa".encode()[1:3]],
]


def _tokenizer_of(tokens: list[bytes], specials: tuple[str, ...] = ()) -> Tokenizer:
    """A byte-level tokenizer of exactly these tokens, then special ones, the last of them EOS."""
    written = [_letters(token) for token in tokens]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab={text: index for index, text in enumerate(written)}, merges=[])
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([*specials, "<eos>"])
    return Tokenizer(backend, eos_token="<eos>")


def _letters(token: bytes) -> str:
    """The vocabulary's spelling of bytes, as the library's own pre-tokenizer writes them."""
    text = "abcxé"
    [(written, _)] = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return "".join(dict(zip(text.encode(), written, strict=True))[byte] for byte in token)


@pytest.fixture(scope="session")
def small_tokenizer() -> Tokenizer:
    """Letters, parts of é, tokens across characters; the special token "aa" reads like text."""
    return _tokenizer_of(TOKENS, ("aa",))


@pytest.fixture(scope="session")
def tokenizer_of() -> Callable[..., Tokenizer]:
    """A byte-level tokenizer of exactly the given tokens and an end of sequence."""
    return _tokenizer_of


@pytest.fixture(scope="session")
def language() -> Callable[[str, int], list[bytes]]:
    """All texts over a, b, é, x up to a length in characters that `re` matches in full."""

    def language(pattern: str, longest: int) -> list[bytes]:
        texts = (
            "".join(letters)
            for length in range(longest + 1)
            for letters in itertools.product("abéx", repeat=length)
        )
        return [text.encode() for text in texts if re.fullmatch(pattern, text)]

    return language


@pytest.fixture
def walk(rng: np.random.Generator) -> Callable[..., list[int]]:
    """Draw allowed tokens until the end; short ones and ends more often than their share."""

    def walk(constraint: Constraint, eos_id: int, most: int, look=lambda: None) -> list[int]:
        tokens: list[int] = []
        while len(tokens) < most and (not tokens or tokens[-1] != eos_id):
            look()
            allowed = constraint.allowed().nonzero().flatten().numpy()
            few = rng.choice(allowed, size=min(4, len(allowed)))
            token = eos_id if eos_id in allowed and rng.random() < 0.3 else int(few.min())
            constraint.advance(token)
            tokens.append(token)
        return tokens

    return walk
