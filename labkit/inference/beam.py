"""Beam search: the likeliest texts, by keeping the best few prefixes at every step."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.inference.decoding import evaluating
from labkit.inference.generate import encode_prompt
from labkit.inference.rows import FinishReason
from labkit.model.cache import KVCache
from labkit.model.minillm import MiniLLM
from labkit.model.tokenizer import Tokenizer
from labkit.tuning import soft_prompt

EarlyStopping = bool | Literal["never"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Beam:
    """A text found.

    Attributes:
        text: Without special tokens.
        ids: The new tokens, an end-of-sequence token included.
        score: cumulative_logprob / len(ids)^length_penalty.
        cumulative_logprob: log p(ids | prompt), in nats.
        finish_reason: "stop" at the end-of-sequence token, else "length".
    """

    text: str
    ids: list[int]
    score: float
    cumulative_logprob: float
    finish_reason: FinishReason


@torch.no_grad()
def beam_search(
    model: MiniLLM,
    tokenizer: Tokenizer,
    prompt: str | list[int],
    *,
    num_beams: int = 4,
    max_new_tokens: int = 64,
    length_penalty: float = 1.0,
    num_return: int = 1,
    early_stopping: EarlyStopping = False,
) -> list[Beam]:
    """The num_return best texts found by score = log p(y | x) / |y|^length_penalty, best first.

    Every step extends all prefixes by all tokens and keeps the 2 num_beams likeliest. Of these, the
    ended ones among the first num_beams are finished texts; the first num_beams of the others go
    on. The beams are the rows of one cache, permuted as prefixes split and die.

    Paper: length normalisation arXiv 1609.08144, equation 14 (there ((5 + |y|) / 6)^alpha).
    Differs: scores, order and the end of the search are those of transformers' beam search.

    Args:
        model: MiniLLM, with adapters or quantized linears or without.
        tokenizer: Its tokenizer.
        prompt: Text, or token ids.
        num_beams: Prefixes kept.
        max_new_tokens: Most tokens of a text.
        length_penalty: Above 0 favours long texts, below 0 short ones, 0 the likeliest.
        num_return: How many of the num_beams finished texts to return.
        early_stopping: When to end, once num_beams texts are finished. True: at once. False: when
            the best prefix, ended at its present length, would not beat the worst of them; with
            length_penalty above 0 a longer text might still have. "never": when it could not even
            at the length that is best for it, max_new_tokens.

    Raises:
        ValueError: A number is out of its range, or the prompt is empty or too long.
    """
    ids = encode_prompt(tokenizer, prompt) if isinstance(prompt, str) else prompt
    _check_beams(num_beams, num_return, model.config.vocab_size)
    longest = _longest(model, ids, max_new_tokens)
    search = _Search(num_beams, longest, length_penalty, early_stopping, tokenizer.eos_id)
    with evaluating(model):
        decoder = _BeamDecoder(model, ids, max_steps=longest - 1)
        logits = decoder.prefill()
        while (parents := search.advance(logits)) is not None:
            logits = decoder.step(parents, [prefix[-1] for prefix in search.prefixes])
    return [search.beam(tokenizer, rank) for rank in range(num_return)]


class _Search:
    """Prefixes under way and texts finished, without the model."""

    def __init__(
        self,
        num_beams: int,
        longest: int,
        length_penalty: float,
        early_stopping: EarlyStopping,
        eos_id: int,
    ) -> None:
        if not math.isfinite(length_penalty):
            raise ValueError(f"length_penalty={length_penalty} must be a finite number")
        if early_stopping not in (True, False, "never"):
            raise ValueError(f'early_stopping={early_stopping!r} must be True, False or "never"')
        self._num_beams = num_beams
        self._longest = longest
        self._length_penalty = length_penalty
        self._early_stopping = early_stopping
        self._eos_id = eos_id
        self.prefixes: list[list[int]] = [[]]
        self._totals = torch.zeros(1)  # log p of each prefix
        self._finished: list[tuple[float, float, list[int]]] = []  # score, log p, tokens

    def advance(self, logits: Float[Tensor, "K V"]) -> list[int] | None:
        """Extend every prefix; which old ones the new ones go on from, None at the end."""
        K, V = self._num_beams, logits.shape[1]
        totals = logits.float().log_softmax(dim=-1).cpu() + self._totals[:, None]
        best, places = totals.flatten().topk(2 * K)
        parents, tokens = (places // V).tolist(), (places % V).tolist()
        texts = [
            [*self.prefixes[parent], token] for parent, token in zip(parents, tokens, strict=True)
        ]
        length = len(texts[0])
        ended = [token == self._eos_id or length == self._longest for token in tokens]
        self._finish([i for i in range(K) if ended[i]], best, texts)
        kept = [i for i in range(2 * K) if not ended[i]][:K]
        if not kept or self._is_over(best[kept[0]], length):
            return None
        self.prefixes, self._totals = [texts[i] for i in kept], best[kept]
        return [parents[i] for i in kept]

    def _finish(self, which: list[int], totals: Tensor, texts: list[list[int]]) -> None:
        scores = totals / len(texts[0]) ** self._length_penalty
        new = [(float(scores[i]), float(totals[i]), texts[i]) for i in which]
        self._finished = sorted([*self._finished, *new], key=lambda text: -text[0])
        self._finished = self._finished[: self._num_beams]

    def _is_over(self, best_total: Tensor, length: int) -> bool:
        if len(self._finished) < self._num_beams:
            return False
        if self._early_stopping is True:
            return True
        hopeful = self._early_stopping == "never" and self._length_penalty > 0
        best_length = self._longest if hopeful else length
        hope = float(best_total / best_length**self._length_penalty)
        return hope <= self._finished[-1][0]

    def beam(self, tokenizer: Tokenizer, rank: int) -> Beam:
        """The finished text of that rank, 0 the best."""
        score, total, ids = self._finished[rank]
        return Beam(
            text=tokenizer.decode(ids),
            ids=ids,
            score=score,
            cumulative_logprob=total,
            finish_reason="stop" if ids[-1] == self._eos_id else "length",
        )


class _BeamDecoder:
    """One prompt's cache, then a row of it for each prefix."""

    def __init__(self, model: MiniLLM, prompt: list[int], *, max_steps: int) -> None:
        self._model = model
        self._ids = torch.tensor([prompt], device=model.model.embed_tokens.weight.device)
        self._position = 0
        self._room = len(prompt) + max_steps + soft_prompt.virtual_tokens(model)
        self._cache = self._new_cache(1)

    def prefill(self) -> Float[Tensor, "1 V"]:
        return self._logits(self._ids)

    def step(self, parents: list[int], tokens: list[int]) -> Float[Tensor, "K V"]:
        """Feed a token to each beam, which goes on from the beam `parents` names."""
        old = self._cache
        rows = min(old.length, old.rows)
        if old.batch_size != len(parents):
            self._cache = self._new_cache(len(parents))
            self._cache.advance(old.length)
        if old.batch_size != len(parents) or parents != list(range(len(parents))):
            self._cache.keys[..., :rows, :] = old.keys[:, parents, :, :rows]
            self._cache.values[..., :rows, :] = old.values[:, parents, :, :rows]
        return self._logits(torch.tensor(tokens, device=self._ids.device)[:, None])

    def _logits(self, ids: Tensor) -> Tensor:
        B, T = ids.shape
        positions = torch.arange(self._position, self._position + T, device=ids.device)
        self._position += T
        logits: Tensor = self._model(
            ids, cache=self._cache, positions=positions.expand(B, T), last_only=True
        )
        return logits[:, -1]

    def _new_cache(self, batch_size: int) -> KVCache:
        weight = self._model.model.embed_tokens.weight
        return KVCache(
            self._model.config,
            batch_size=batch_size,
            max_length=self._room,
            dtype=weight.dtype,
            device=weight.device,
        )


def _check_beams(num_beams: int, num_return: int, V: int) -> None:
    if not 2 <= num_beams <= V // 2:
        raise ValueError(
            f"num_beams={num_beams} must lie in [2, V/2={V // 2}]; one beam is greedy decoding: "
            "call generate"
        )
    if not 1 <= num_return <= num_beams:
        raise ValueError(f"num_return={num_return} must lie in [1, num_beams={num_beams}]")


def _longest(model: MiniLLM, ids: list[int], max_new_tokens: int) -> int:
    limit = model.config.max_length - soft_prompt.virtual_tokens(model)
    if not 1 <= len(ids) <= limit:
        raise ValueError(f"the prompt has {len(ids)} tokens: 1 to max_length={limit} are possible")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
    return min(max_new_tokens, limit - len(ids) + 1)
