"""From logits to a token: temperature, top-k and top-p as distributions, and exact draws."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """How tokens are chosen and when a generation ends.

    Attributes:
        temperature: Logits are divided by it; 0 is greedy decoding.
        top_k: Keep the k largest logits, and those equal to the k-th; None keeps all.
        top_p: Keep the smallest set of tokens whose probability reaches top_p; None keeps all.
        max_new_tokens: Most tokens to generate for each prompt.
        stop: Strings that end a generation; they are not part of its text.
        seed: Of the row's own generator, so that a text does not depend on its batch.
        ignore_eos: Go on after the end-of-sequence token (for timing).
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()
    seed: int = 0
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature={self.temperature} must be at least 0 (0 is greedy)")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k} must be at least 1, or None for all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must lie in (0, 1], or be None")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} must be at least 1")
        if isinstance(self.stop, str) or "" in self.stop:
            raise ValueError(f"stop={self.stop!r} must be a tuple of non-empty strings")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise ValueError(f"seed={self.seed} must lie in [0, 2^63)")


def next_token_distribution(
    logits: Float[Tensor, "B V"], config: SamplingConfig
) -> Float[Tensor, "B V"]:
    """p = softmax(keep_top_p(keep_top_k(logits / temperature))), in float32.

    Temperature comes first, so top-p cuts the tempered distribution. Temperature 0 puts all
    probability on the largest logit, the first one of equals.

    Paper: top-k arXiv 1805.04833, section 5.4; top-p (nucleus) arXiv 1904.09751, equations 2-3.
    Differs: as in transformers, all tokens that tie with the k-th stay.

    Args:
        logits: Of the next token, one row a sequence.
        config: Temperature, top_k and top_p.
    """
    scores = logits.float()
    if config.temperature == 0:
        greedy = scores.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(scores).scatter_(-1, greedy, 1.0)
    scores = scores / config.temperature
    if config.top_k is not None:
        scores = keep_top_k(scores, config.top_k)
    if config.top_p is not None and config.top_p < 1:
        scores = keep_top_p(scores, config.top_p)
    return scores.softmax(dim=-1)


def keep_top_k(scores: Float[Tensor, "B V"], k: int) -> Float[Tensor, "B V"]:
    """Set every score below the k-th largest of its row to -inf."""
    kth = scores.topk(min(k, scores.shape[-1]), dim=-1).values[:, -1:]
    return scores.masked_fill(scores < kth, -math.inf)


def keep_top_p(scores: Float[Tensor, "B V"], p: float) -> Float[Tensor, "B V"]:
    """Set to -inf the least likely tokens whose probabilities together are at most 1 - p.

    The token that crosses p stays, and so at least one token does.
    """
    ascending, order = scores.sort(dim=-1)
    removed = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    removed[:, -1] = False
    return scores.masked_fill(removed.scatter(-1, order, removed), -math.inf)


def sample(
    probs: Float[Tensor, "B V"], generator: torch.Generator | Sequence[torch.Generator]
) -> Int[Tensor, "B"]:
    """Draw one token a row by inverting the cumulative distribution: min {v : F(v) > u}.

    One uniform number in float64 a row, so that a row with its own generator draws the same token
    alone and in any batch. A token of probability 0 is never drawn.

    Args:
        probs: One distribution a row; rows need not sum to 1.
        generator: One for all rows, in order, or one a row.

    Raises:
        ValueError: There are neither one nor B generators, or a row has no finite positive sum.
    """
    B = probs.shape[0]
    generators = [generator] * B if isinstance(generator, torch.Generator) else generator
    if len(generators) != B:
        raise ValueError(f"{len(generators)} generators for B={B} rows: give one, or one a row")
    cumulative = probs.double().cumsum(dim=-1)
    total = cumulative[:, -1:]
    if not bool((total.isfinite() & (total > 0)).all()):
        raise ValueError(f"probabilities sum to {total.flatten().tolist()}: need positive numbers")
    draws = [torch.rand(1, generator=g, dtype=torch.float64, device=g.device) for g in generators]
    uniform = torch.stack([draw.to(probs.device) for draw in draws])
    return torch.searchsorted(cumulative / total, uniform, right=True).squeeze(-1)
