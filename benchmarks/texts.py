"""Tokens for the inference benchmarks: real documentation, and a load of ragged lengths."""

import math
from typing import Any

import numpy as np

from labkit.data import pydoc_corpus
from labkit.model.tokenizer import Tokenizer


def held_out(tokenizer: Tokenizer) -> list[int]:
    """The documentation of functions that nothing was tuned on, as one line of tokens."""
    _, held = pydoc_corpus.split(pydoc_corpus.functions())
    return tokenizer.encode("\n\n".join(pydoc_corpus.as_text(held)))


def rows(ids: list[int], count: int, length: int) -> list[list[int]]:
    """`count` stretches of `length` tokens, spread evenly."""
    stride = (len(ids) - length) // max(count, 1)
    return [ids[i * stride : i * stride + length] for i in range(count)]


def poisson_load(
    ids: list[int],
    *,
    count: int,
    rate: float,
    prompt: tuple[int, int],
    answer: tuple[int, int],
    seed: int,
) -> list[dict[str, Any]]:
    """Requests {"prompt", "new_tokens", "at"}: arrivals a Poisson process, lengths log-uniform.

    Args:
        ids: Where prompts are taken from.
        count: Requests.
        rate: Of arrivals, a second.
        prompt: Shortest and longest prompt, in tokens.
        answer: Shortest and longest answer, in tokens.
        seed: Of everything drawn.
    """
    rng = np.random.default_rng(seed)
    at = rng.exponential(1 / rate, count).cumsum()
    at -= at[0]
    prompts, answers = (
        np.exp(rng.uniform(*map(math.log, span), count)) for span in (prompt, answer)
    )
    starts = rng.integers(0, len(ids) - prompt[1], count)
    return [
        {"prompt": ids[start : start + int(p)], "new_tokens": int(a), "at": float(t)}
        for start, p, a, t in zip(starts, prompts, answers, at, strict=True)
    ]
