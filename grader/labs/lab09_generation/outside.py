"""What of lab 09's questions stays outside the box: the decoders that are to be diagnosed."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from grader.checks.outside import Outside

Arrays = dict[str, Any]
MOST_TOKENS = 1_024


def decoders(inputs: Arrays) -> Arrays:
    """Each case's decoder as its two functions; `full` is right, `cached` has the case's fault."""
    return {"cases": [_decoder(case) for case in inputs["cases"]]}


def _decoder(case: Arrays) -> Arrays:
    right = {**case, "fault": "healthy"}
    return {
        "vocab_size": len(case["embedding"]),
        "full": Outside(lambda ids: _decode(right, [ids]), MOST_TOKENS),
        "cached": Outside(partial(_decode, case), MOST_TOKENS),
    }


@torch.no_grad()
def _decode(case: Arrays, chunks: Any) -> Tensor:
    """Logits (T, V) of all chunks together; ValueError when they are not what was asked for."""
    _validate(chunks, len(case["embedding"]))
    G, H, K = case["num_kv_heads"], case["num_heads"], case["head_width"]
    keys, values = torch.zeros(G, 0, K), torch.zeros(G, 0, K)
    logits, past = [], 0
    for ids in chunks:
        T, x = len(ids), case["embedding"][ids.long()]
        start = 0 if case["fault"] == "positions" else past
        positions = torch.arange(start, start + T)
        q, k, v = (_heads(x, case[name], K) for name in ("q_proj", "k_proj", "v_proj"))
        q, k = _rotate(q, positions), _rotate(k, positions)
        if case["fault"] == "forgets":
            keys, values = keys[:, :0], values[:, :0]
        keys, values = torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1)
        y = _attention(q, keys, values, H // G, case["fault"])
        logits.append((x + y.transpose(0, 1).reshape(T, H * K) @ case["o_proj"].T) @ case["head"].T)
        past += T
    return torch.cat(logits)


def _validate(chunks: Any, vocab_size: int) -> None:
    if type(chunks) not in (list, tuple) or not chunks:
        raise ValueError("expected a list of at least one chunk of tokens")
    for ids in chunks:
        if type(ids) is not Tensor or ids.ndim != 1 or not len(ids) or not _whole(ids):
            raise ValueError("expected tokens as tensors of integers, (t,), of one token or more")
        if ids.min() < 0 or ids.max() >= vocab_size:
            raise ValueError(f"a token is not in 0..{vocab_size - 1}")


def _whole(ids: Tensor) -> bool:
    return not (ids.is_floating_point() or ids.is_complex() or ids.dtype is torch.bool)


def _heads(x: Tensor, weight: Tensor, K: int) -> Tensor:
    return (x @ weight.T).view(len(x), -1, K).transpose(0, 1)


def _rotate(x: Tensor, positions: Tensor) -> Tensor:
    K = x.shape[-1]
    angles = positions[:, None] / 100.0 ** (torch.arange(0, K, 2) / K)
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _attention(q: Tensor, keys: Tensor, values: Tensor, group: int, fault: str) -> Tensor:
    T, S = q.shape[1], keys.shape[1]
    if fault == "heads":
        k, v = keys.repeat(group, 1, 1), values.repeat(group, 1, 1)
    else:
        k, v = keys.repeat_interleave(group, dim=0), values.repeat_interleave(group, dim=0)
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    if T > 1:
        seen = torch.ones(T, S).tril(0 if fault == "mask" else S - T).bool()
        scores = scores.masked_fill(~seen, -math.inf)
    return scores.softmax(-1) @ v


HAND_OVER: dict[str, Callable[[Arrays], Arrays]] = {"diagnose": decoders}
