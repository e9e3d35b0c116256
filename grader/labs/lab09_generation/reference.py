"""labkit's generation in the shapes that lab 09's exercises ask for: expected values."""

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from labkit.inference import sampling
from labkit.inference.text import TextAssembler
from labkit.model.cache import KVCache
from labkit.model.config import ModelConfig
from labkit.model.minillm import attention_mask


def next_token_distribution(
    logits: Tensor, temperature: float, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """softmax(keep_top_p(keep_top_k(logits / temperature)))."""
    config = sampling.SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    return sampling.next_token_distribution(logits, config)


def draw(probs: Tensor, u: Tensor) -> Tensor:
    """min {v : C(v) > u C(V)} in exact fractions; labkit draws its uniforms itself."""
    tokens = []
    for row, uniform in zip(probs.tolist(), u.tolist(), strict=True):
        weights = [Fraction(p) for p in row]
        left = Fraction(uniform) * sum(weights)
        token = 0
        while left >= weights[token]:
            left -= weights[token]
            token += 1
        tokens.append(token)
    return torch.tensor(tokens)


def attend(q: Tensor, k: Tensor, v: Tensor, cache: Any) -> Tensor:
    """Append to labkit's cache, attend as its Attention does."""
    B, H, T, K = q.shape
    past, G = cache.length, k.shape[1]
    config = ModelConfig(
        vocab_size=1, width=1, num_layers=1, num_heads=H, num_kv_heads=G, head_width=K, ffn_width=1
    )
    store = KVCache(config, batch_size=B, max_length=cache.keys.shape[2], device=q.device)
    store.keys, store.values, store.length = cache.keys[None], cache.values[None], past
    keys, values = store.append(0, k, v)
    cache.length = past + T
    ids = torch.zeros(B, T, dtype=torch.long)
    mask = attention_mask(ids, past, None, None)
    causal = mask is None and T > 1
    return functional.scaled_dot_product_attention(
        q, keys, values, mask, is_causal=causal, enable_gqa=True
    )


class _Pieces:
    """A tokenizer whose token i is the i-th piece."""

    def __init__(self) -> None:
        self.pieces: list[str] = []

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        return "".join(self.pieces[i] for i in ids)


def until_stop(pieces: Iterable[str], stops: tuple[str, ...]) -> Iterator[str]:
    """Pass text on once it is final, end before the first stop string."""
    tokenizer = _Pieces()
    assembler = TextAssembler(tokenizer, stops)
    for token, piece in enumerate(pieces):
        tokenizer.pieces.append(piece)
        yield assembler.push(token)
        if assembler.stopped:
            return
    yield assembler.finish()


def diagnose(decoder: Any) -> str:
    """Name what is wrong with a decoder's cached path."""
    ids = torch.arange(11) % decoder.vocab_size
    other = ids.clone()
    other[0] = ids[0] + 1
    full = decoder.full(ids)
    if not _close(decoder.cached([ids]), full):
        return "heads"
    single = decoder.cached(list(ids.split(1)))
    if _close(single, full):
        return "healthy" if _close(decoder.cached(list(ids.split(4))), full) else "mask"
    changed = decoder.cached(list(other.split(1)))
    return "forgets" if _close(changed[1:], single[1:]) else "positions"


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-3, atol=1e-4)


def predict_decoding(
    config: Any, bytes_per_number: int, context: int, batch_size: int, bandwidth: float
) -> tuple[int, int, float]:
    """KV bytes of a token, bytes read in a step, most tokens a second."""
    model = ModelConfig(**vars(config))
    dtype = {1: torch.int8, 2: torch.bfloat16, 4: torch.float32}[bytes_per_number]
    kv_bytes = model.kv_bytes_per_token(dtype)
    looked_up = 0 if model.tie_embeddings else model.vocab_size * model.width
    weights = bytes_per_number * (model.num_parameters - looked_up)
    step = weights + batch_size * context * kv_bytes
    return kv_bytes, step, batch_size * bandwidth / step


def beam_search(
    log_probs: Callable[[list[list[int]]], Tensor],
    num_beams: int,
    max_new_tokens: int,
    length_penalty: float,
    eos_id: int,
) -> list[tuple[list[int], float]]:
    """The num_beams best texts that this search finishes, best first."""
    live, finished = [(0.0, list[int]())], list[tuple[float, list[int]]]()
    for length in range(1, max_new_tokens + 1):
        rows = log_probs([ids for _, ids in live]).tolist()
        grown = [
            (total + step, [*ids, token])
            for (total, ids), row in zip(live, rows, strict=True)
            for token, step in enumerate(row)
        ]
        ended = [x for x in grown if x[1][-1] == eos_id or length == max_new_tokens]
        finished += [(total / length**length_penalty, ids) for total, ids in ended]
        finished = sorted(finished, reverse=True)[:num_beams]
        live = sorted((x for x in grown if x[1][-1] != eos_id), reverse=True)[:num_beams]
        hope = live[0][0] / max_new_tokens**length_penalty
        if len(finished) == num_beams and hope <= finished[-1][0]:
            break
    return [(ids, score) for score, ids in finished]


IMPLEMENTATIONS: dict[str, Any] = {
    "next_token_distribution": next_token_distribution,
    "draw": draw,
    "attend": attend,
    "until_stop": until_stop,
    "diagnose": diagnose,
    "predict_decoding": predict_decoding,
    "beam_search": beam_search,
}
