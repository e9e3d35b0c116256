"""From logits to a token: temperature, top-k, top-p, min-p as distributions, and exact draws."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labkit.inference.penalties import LogitBias

LARGEST_SEED = 2**63 - 1
TEMPERATURES = (1e-6, 1e6)  # beyond them float32 logits turn into infinities or vanish
NUCLEUS = 512  # likeliest tokens in which top-p looks before it sorts the whole row
LARGEST_SHIFT = 1e9  # of a logit by a bias or a penalty, for the same reason


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """How tokens are chosen and when a generation ends.

    Attributes:
        temperature: Logits are divided by it; 0 is greedy decoding.
        top_k: Keep the k largest logits, and those equal to the k-th; None keeps all.
        top_p: Keep the smallest set of tokens whose probability reaches top_p; None keeps all.
        min_p: Keep tokens at least min_p times as likely as the likeliest; None keeps all.
        repetition_penalty: Divides positive logits, and multiplies negative ones, of every token
            in the prompt or the output; 1 changes nothing.
        presence_penalty: Taken once from the logit of every token in the output.
        frequency_penalty: Taken from a token's logit once for each time the output has it.
        logit_bias: Token id to what is added to its logit.
        logprobs: Record each token's log-probability and those of so many likeliest tokens (0: of
            the chosen one alone); None records nothing.
        max_new_tokens: Most tokens to generate for each prompt.
        min_new_tokens: Before so many, no end-of-sequence token, none of `stop_token_ids` is drawn
            and a stop string ends nothing; a constraint that allows nothing else comes first.
        stop: Strings that end a generation; they are not part of its text.
        stop_token_ids: Tokens that end a generation; in its ids, but not in its text.
        seed: Of the row's own generator, so that a text does not depend on its batch.
        ignore_eos: Go on after the end-of-sequence token (for timing).
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=LogitBias)
    logprobs: int | None = None
    max_new_tokens: int = 64
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    seed: int = 0
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "logit_bias", LogitBias(self.logit_bias))
        for problem in chain(self._bad_choice(), self._bad_shifts(), self._bad_end()):
            raise ValueError(problem)

    @property
    def penalises(self) -> bool:
        """Whether logits depend on the tokens so far."""
        return self.repetition_penalty != 1 or bool(self.presence_penalty or self.frequency_penalty)

    def check_token_ids(self, vocab_size: int) -> None:
        """Refuse token ids that a model of V = `vocab_size` tokens does not have.

        Raises:
            ValueError: `logit_bias` or `stop_token_ids` names one.
        """
        for name, ids in (("logit_bias", self.logit_bias), ("stop_token_ids", self.stop_token_ids)):
            if beyond := [token for token in ids if token >= vocab_size]:
                raise ValueError(
                    f"{name} names tokens {beyond}: this model's are below {vocab_size}"
                )

    def _bad_choice(self) -> Iterator[str]:
        T, p, least = self.temperature, self.top_p, self.min_p
        coldest, hottest = TEMPERATURES
        if not (T == 0 or coldest <= T <= hottest):
            yield f"temperature={T} must be 0 (greedy) or lie in [{coldest:g}, {hottest:g}]"
        if self.top_k is not None and self.top_k < 1:
            yield f"top_k={self.top_k} must be at least 1, or None for all tokens"
        if p is not None and not 0 < p <= 1:
            yield f"top_p={p} must lie in (0, 1], or be None"
        if least is not None and not 0 <= least <= 1:
            yield f"min_p={least} must lie in [0, 1], or be None"
        if self.logprobs is not None and self.logprobs < 0:
            yield f"logprobs={self.logprobs} must be at least 0, or None for none"

    def _bad_shifts(self) -> Iterator[str]:
        if not 1 / LARGEST_SHIFT <= self.repetition_penalty <= LARGEST_SHIFT:
            yield f"repetition_penalty={self.repetition_penalty} must be positive (1 is none)"
        for name in ("presence_penalty", "frequency_penalty"):
            if not abs(getattr(self, name)) <= LARGEST_SHIFT:
                yield f"{name}={getattr(self, name)} must be a finite number (0 is none)"
        for token, bias in self.logit_bias.items():
            if token < 0 or not abs(bias) <= LARGEST_SHIFT:
                yield f"logit_bias={{{token}: {bias}}} must add a finite number to a token id"

    def _bad_end(self) -> Iterator[str]:
        if self.max_new_tokens < 1:
            yield f"max_new_tokens={self.max_new_tokens} must be at least 1"
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            most = self.max_new_tokens
            yield f"min_new_tokens={self.min_new_tokens} must lie in [0, max_new_tokens={most}]"
        if isinstance(self.stop, str) or "" in self.stop:
            yield f"stop={self.stop!r} must be a tuple of non-empty strings"
        if any(token < 0 for token in self.stop_token_ids):
            yield f"stop_token_ids={self.stop_token_ids} must be token ids, from 0 on"
        if not 0 <= self.seed <= LARGEST_SEED:
            yield f"seed={self.seed} must lie in [0, 2^63)"


def next_token_distribution(
    logits: Float[Tensor, "B V"], config: SamplingConfig
) -> Float[Tensor, "B V"]:
    """p = softmax(keep_min_p(keep_top_p(keep_top_k(logits / temperature)))), in float32.

    Temperature comes first, so top-p cuts the tempered distribution. Temperature 0 puts all
    probability on the largest logit, the first one of equals. Bias, penalties and constraints need
    the tokens so far and come before: see `labkit.inference.chooser`.

    Paper: top-k arXiv 1805.04833, section 5.4; top-p (nucleus) arXiv 1904.09751, equations 2-3;
    min-p arXiv 2407.01082.
    Differs: as in transformers, all tokens that tie with the k-th stay.

    Args:
        logits: Of the next token, one row a sequence.
        config: Temperature, top_k, top_p and min_p.
    """
    return next_token_distributions(logits, [config] * logits.shape[0])


def next_token_distributions(
    logits: Float[Tensor, "B V"], configs: Sequence[SamplingConfig]
) -> Float[Tensor, "B V"]:
    """`next_token_distribution` of rows that each have their own configuration.

    A row's distribution is bit for bit what it is alone.
    """
    scores = logits.float()
    heat = torch.tensor([config.temperature or 1.0 for config in configs], device=scores.device)
    scores = scores / heat[:, None]
    scores = _on_rows(keep_top_k, scores, [config.top_k for config in configs])
    scores = _on_rows(keep_top_p, scores, [_below_one(config.top_p) for config in configs])
    scores = _on_rows(keep_min_p, scores, [config.min_p for config in configs])
    probs = scores.softmax(dim=-1)
    if greedy := [row for row, config in enumerate(configs) if config.temperature == 0]:
        best = logits[greedy].argmax(dim=-1, keepdim=True)
        probs[greedy] = torch.zeros_like(probs[greedy]).scatter_(-1, best, 1.0)
    return probs


def keep_top_k(scores: Float[Tensor, "B V"], k: int | Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
    """Set every score below the k-th largest of its row to -inf; k for all rows or one a row."""
    B, V = scores.shape
    ranks = torch.as_tensor(k, device=scores.device).clamp(max=V).expand(B)
    largest = scores.topk(int(ranks.max()), dim=-1).values
    return scores.masked_fill(scores < largest.gather(1, ranks[:, None] - 1), -math.inf)


def keep_top_p(scores: Float[Tensor, "B V"], p: float | Float[Tensor, "B"]) -> Float[Tensor, "B V"]:
    """Set to -inf the least likely tokens whose probabilities together are at most 1 - p.

    The token that crosses p stays, and so at least one token does. Sorting a large vocabulary costs
    more than all else here; the first `NUCLEUS` tokens are enough for most rows.
    """
    B, V = scores.shape
    bound = _column(p, torch.float64, scores).expand(B, 1)
    if V <= NUCLEUS:
        return _keep_top_p_sorted(scores, bound)
    values, ids = scores.topk(NUCLEUS, dim=-1)
    before = scores.softmax(dim=-1).gather(-1, ids).cumsum(dim=-1).roll(1, dims=-1)
    before[:, 0] = 0
    kept = before < bound
    values = values.masked_fill(~kept, -math.inf)
    result = torch.full_like(scores, -math.inf).scatter_(-1, ids, values)
    if len(wider := kept[:, -1].nonzero().squeeze(-1)):
        result[wider] = _keep_top_p_sorted(scores[wider], bound[wider])
    return result


def _keep_top_p_sorted(scores: Tensor, p: Tensor) -> Tensor:
    ascending, order = scores.sort(dim=-1)
    removed = ascending.softmax(dim=-1).cumsum(dim=-1) <= (1 - p).to(scores.dtype)
    removed[:, -1] = False
    return scores.masked_fill(removed.scatter(-1, order, removed), -math.inf)


def keep_min_p(scores: Float[Tensor, "B V"], p: float | Float[Tensor, "B"]) -> Float[Tensor, "B V"]:
    """Set to -inf every token less likely than p times the likeliest, which itself stays.

    Both sides share the normalisation, so what top-k and top-p took away before does not matter.

    Paper: arXiv 2407.01082.
    """
    probs = scores.softmax(dim=-1)
    least = probs.amax(dim=-1, keepdim=True) * _column(p, scores.dtype, scores)
    return scores.masked_fill(probs < least, -math.inf)


def _below_one(p: float | None) -> float | None:
    return p if p is not None and p < 1 else None


def _column(value: float | Tensor, dtype: torch.dtype, scores: Tensor) -> Tensor:
    """One number for all rows or one a row, beside the scores."""
    return torch.as_tensor(value, dtype=dtype, device=scores.device).reshape(-1, 1)


def _on_rows(
    keep: Callable[[Tensor, Tensor], Tensor], scores: Tensor, values: Sequence[int | float | None]
) -> Tensor:
    """`keep` on the rows whose value is not None."""
    rows = [row for row, value in enumerate(values) if value is not None]
    if not rows:
        return scores
    asked = [values[row] for row in rows]
    column = torch.tensor(asked, dtype=torch.float64 if isinstance(asked[0], float) else None)
    if len(rows) == len(values):
        return keep(scores, column)
    scores = scores.clone()
    scores[rows] = keep(scores[rows], column)
    return scores


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
    uniform = torch.stack([draw.cpu() for draw in draws]).to(probs.device)
    return torch.searchsorted(cumulative / total, uniform, right=True).squeeze(-1)
