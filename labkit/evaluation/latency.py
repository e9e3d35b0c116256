"""Tokens per second of the two phases of generation, after a warm-up, as medians."""

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from labkit.evaluation.scoring import judged
from labkit.model.cache import KVCache
from labkit.model.minillm import MiniLLM
from labkit.runtime.timing import Timing, measure


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """One phase's speed: `tokens` over all rows, made in `steps` forward passes, per sample."""

    tokens: int
    steps: int
    timing: Timing

    @property
    def tokens_per_s(self) -> float:
        """Throughput over the whole batch, at the median sample."""
        return self.tokens / self.timing.median_s

    @property
    def step_ms(self) -> float:
        """Milliseconds of one forward pass: in decoding, the time between a row's tokens."""
        return 1e3 * self.timing.median_s / self.steps


def measure_prefill(
    model: MiniLLM, ids: Int[Tensor, "B T"], *, warmup: int = 1, repeats: int = 5
) -> Speed:
    """Reading a prompt: one forward pass over all its tokens, which limits the time to a reply.

    Args:
        model: the model.
        ids: prompts of one length, on any device.
        warmup: runs that are not counted: the first ones allocate and choose kernels.
        repeats: runs that are.

    Raises:
        ValueError: the prompt exceeds the model's context, or too few repeats.
    """
    B, T = ids.shape
    ids, cache = _prepared(model, ids, T)

    def prefill() -> None:
        cache.truncate(0)
        model(ids, cache=cache, last_only=True)

    with judged(model):
        timing = measure(prefill, warmup=warmup, repeats=repeats)
    return Speed(tokens=B * T, steps=1, timing=timing)


def measure_decode(
    model: MiniLLM,
    ids: Int[Tensor, "B T"],
    *,
    new_tokens: int = 48,
    warmup: int = 1,
    repeats: int = 5,
) -> Speed:
    """Writing: `new_tokens` greedy steps from a filled cache, the prefill not counted.

    Every repeat decodes the same tokens: the cache is cut back to the prompt between two.

    Args:
        model: the model.
        ids: prompts of one length, on any device.
        new_tokens: steps per repeat; tokens that end a text do not stop the clock.
        warmup: see `measure_prefill`.
        repeats: see `measure_prefill`.

    Raises:
        ValueError: prompt and new tokens exceed the model's context, or too few steps or repeats.
    """
    B, T = ids.shape
    if new_tokens < 1:
        raise ValueError(f"new_tokens={new_tokens} must be at least 1")
    ids, cache = _prepared(model, ids, T + new_tokens)

    with judged(model):
        first = model(ids, cache=cache, last_only=True)[:, -1:].argmax(-1)

        def decode() -> None:
            cache.truncate(T)
            token = first
            for _ in range(new_tokens):
                token = model(token, cache=cache, last_only=True)[:, -1:].argmax(-1)

        timing = measure(decode, warmup=warmup, repeats=repeats)
    return Speed(tokens=B * new_tokens, steps=new_tokens, timing=timing)


def _prepared(model: MiniLLM, ids: Tensor, length: int) -> tuple[Tensor, KVCache]:
    """The prompts on the model's device, and an empty cache with room for `length` tokens."""
    if length > model.config.max_length:
        raise ValueError(f"{length} tokens exceed max_length={model.config.max_length}")
    embedding = model.model.embed_tokens.weight
    cache = KVCache(
        model.config,
        batch_size=ids.shape[0],
        max_length=length,
        dtype=embedding.dtype,
        device=embedding.device,
    )
    return ids.to(embedding.device), cache
