"""Perplexity of a text longer than the context, by sliding windows.

Traps, each worth more than most methods that are compared by perplexity:
- window and stride: a token is predicted from at least `window - stride` tokens before it. Short
  contexts make any model look worse, so figures with other windows or strides do not compare.
- BOS: models trained with a BOS token want it before every window; SmolLM2 was trained without.
- the mean is over tokens, never over windows, whose numbers of scored tokens differ.
- another tokenizer means other tokens: then compare nats per byte.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from labkit.evaluation.scoring import judged, log_probs_from


@dataclass(frozen=True, slots=True, eq=False)
class PerplexityResult:
    """`token_nats[i]`: -log p of the i-th scored token, in the text's order."""

    token_nats: Float[Tensor, "N"]

    @property
    def tokens(self) -> int:
        """Scored tokens."""
        return self.token_nats.shape[0]

    @property
    def nll_nats(self) -> float:
        """Negative log-likelihood of all of them, summed in float64."""
        return float(self.token_nats.double().sum())

    @property
    def perplexity(self) -> float:
        """exp(nll_nats / tokens)."""
        return math.exp(self.nll_nats / self.tokens)


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens begin .. end - 1 are fed, those from `first_scored` on are scored."""

    begin: int
    end: int
    first_scored: int


def sliding_windows(
    num_tokens: int, *, window: int, stride: int, has_bos: bool = False
) -> list[Window]:
    """Windows that score every token once: all of the first window, then `stride` at a time.

    Without a BOS the very first token has nothing to be predicted from and is left out.

    Raises:
        ValueError: the text is too short, or the stride would leave tokens without context.
    """
    longest = window if has_bos else window - 1
    if not 1 <= stride <= longest:
        raise ValueError(
            f"stride={stride} with window={window} must lie in 1..{longest}, so that every token "
            "is predicted from one before it; the largest gives (almost) disjoint windows"
        )
    first_scored = 0 if has_bos else 1
    if num_tokens <= first_scored:
        raise ValueError(f"{num_tokens} tokens are too few to predict one")
    windows = [Window(0, min(window, num_tokens), first_scored)]
    while windows[-1].end < num_tokens:
        begin = windows[-1].begin + stride
        windows.append(Window(begin, min(begin + window, num_tokens), windows[-1].end))
    return windows


def perplexity(
    model: nn.Module,
    ids: Int[Tensor, "N"],
    *,
    window: int,
    stride: int,
    bos_id: int | None = None,
    batch_size: int = 1,
) -> PerplexityResult:
    """exp of the mean of -log p(token | up to `window - 1` tokens before it), each token once.

    Args:
        model: MiniLLM, or a transformers causal language model.
        ids: the whole text.
        window: tokens fed at once, BOS not counted; at most the model's context.
        stride: tokens from one window to the next; `window - 1` is fastest, 1 gives every token
            the longest context. Every token but the first ones sees `window - stride` or more.
        bos_id: put before every window; then the first token is scored too.
        batch_size: windows in one forward pass; changes speed and memory only.

    Raises:
        ValueError: see `sliding_windows`; or `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    has_bos = bos_id is not None
    windows = sliding_windows(len(ids), window=window, stride=stride, has_bos=has_bos)
    nats = []
    with judged(model):
        for batch in _batches(windows, batch_size):
            rows = torch.stack([ids[w.begin : w.end] for w in batch])
            start = batch[0].first_scored - batch[0].begin
            if bos_id is not None:
                rows = torch.nn.functional.pad(rows, (1, 0), value=bos_id)
                start += 1
            nats.append(-log_probs_from(model, rows, start).flatten())
    return PerplexityResult(torch.cat(nats))


def _batches(windows: list[Window], batch_size: int) -> Iterator[list[Window]]:
    """Neighbouring windows of the same form: the first and the last may differ from the rest."""
    for _, group in groupby(windows, key=lambda w: (w.end - w.begin, w.first_scored - w.begin)):
        same = list(group)
        for start in range(0, len(same), batch_size):
            yield same[start : start + batch_size]
