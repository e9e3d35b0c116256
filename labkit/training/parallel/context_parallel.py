"""Context parallelism: one sequence split over the ranks by positions, attention over all of it.

Ring attention passes keys and values around while each rank folds them into an online softmax;
Ulysses swaps a split by positions for a split by heads, attends, and swaps back.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from labkit.training.parallel.collectives import Group
from labkit.training.parallel.exchanges import exchange_rows

Queries = Float[Tensor, "B H Tn K"]
KeyValues = Float[Tensor, "B G Tn K"]


def ring_attention(q: Queries, k: KeyValues, v: KeyValues, group: Group) -> Queries:
    """Causal softmax(q k^T / sqrt(K)) v over the ranks' positions together, rank after rank.

    A rank holds one other rank's keys and values at a time; no score of more than (T / n)^2
    positions exists. Backward goes around once more, with the gradients of keys and values
    travelling beside them until they are home. The plain order leaves early ranks idle: rank r
    computes r + 1 of the n blocks.

    Paper: arXiv 2310.01889, algorithm 1; online softmax arXiv 1805.02867, algorithm 3.

    Args:
        q: this rank's queries, rotary positions applied; every rank has as many.
        k: its keys; each of the G heads serves H / G query heads.
        v: its values.
        group: the ranks, in the order of their positions.
    """
    y: Tensor = _RingAttention.apply(q, k, v, group)
    return y


def ring_attention_bytes(kv_bytes: int, n: int) -> tuple[int, int]:
    """Bytes a rank sends forward and backward; `kv_bytes` are those of its keys and values.

    (n - 1) of them forward; backward as many, and n of their gradients.
    """
    return (n - 1) * kv_bytes, (2 * n - 1) * kv_bytes


def ulysses_attention(q: Queries, k: KeyValues, v: KeyValues, group: Group) -> Queries:
    """The same attention by all-to-all: (B, H, T/n, K) -> (B, H/n, T, K) and back.

    Each of q, k, v and the output sends (n - 1) / n of itself, whatever the sequence's length.

    Paper: arXiv 2309.14509, section 3.

    Raises:
        ValueError: the ranks do not divide the heads.
    """
    for name, x in (("num_heads", q), ("num_kv_heads", k)):
        if x.shape[1] % group.size:
            raise ValueError(
                f"{group.size} ranks must divide {name}={x.shape[1]}; ring attention need not"
            )
    q, k, v = (_heads_for_positions(x, group) for x in (q, k, v))
    y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return _positions_for_heads(y, group)


def _heads_for_positions(x: Float[Tensor, "B X Tn K"], group: Group) -> Float[Tensor, "B Xn T K"]:
    n, (B, X, Tn, K) = group.size, x.shape
    rows = x.transpose(0, 1).reshape(X, B, Tn, K)  # heads first: rank i takes the i-th X / n
    got = exchange_rows(rows, [X // n] * n, [X // n] * n, group)
    got = got.view(n, X // n, B, Tn, K).permute(2, 1, 0, 3, 4)  # (n, X/n, B, T/n, K)
    return got.reshape(B, X // n, n * Tn, K)


def _positions_for_heads(y: Float[Tensor, "B Xn T K"], group: Group) -> Float[Tensor, "B X Tn K"]:
    n, (B, Xn, T, K) = group.size, y.shape
    rows = y.view(B, Xn, n, T // n, K).permute(2, 1, 0, 3, 4)  # (n, X/n, B, T/n, K)
    got = exchange_rows(rows.reshape(n * Xn, B, T // n, K), [Xn] * n, [Xn] * n, group)
    return got.transpose(0, 1).reshape(B, n * Xn, T // n, K)


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, group: Group) -> Tensor:
        B, H, Tn, K = q.shape
        grouped = q.reshape(B, k.shape[1], -1, Tn, K)  # (B, G, H/G, T/n, K)
        top = grouped.new_full(grouped.shape[:-1], -math.inf)
        total = torch.zeros_like(top)
        y = torch.zeros_like(grouped)
        kv = torch.stack((k, v))
        for step in range(group.size):
            if step <= group.index:  # later ranks' keys are all in the future
                y, top, total = _fold(grouped, kv, step == 0, y, top, total)
            if step < group.size - 1:
                kv = _passed_on(kv, group)
        y = y / total[..., None]
        ctx.group = group
        ctx.save_for_backward(grouped, k, v, y, top + total.log())
        return y.view(B, H, Tn, K)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, y, log_total = ctx.saved_tensors
        group = ctx.group
        dy = gradient.reshape(y.shape)
        delta = (dy * y).sum(-1, keepdim=True)
        kv, dkv = torch.stack((k, v)), k.new_zeros(2, *k.shape)
        dq = torch.zeros_like(q)
        for step in range(group.size):
            if step <= group.index:
                p = (_scores(q, kv[0], step == 0) - log_total[..., None]).exp()
                dp = dy @ kv[1][:, :, None].mT
                ds = p * (dp - delta) / math.sqrt(q.shape[-1])
                dq += ds @ kv[0][:, :, None]
                dkv[0] += (ds.mT @ q).sum(2)
                dkv[1] += (p.mT @ dy).sum(2)
            if step < group.size - 1:
                kv = _passed_on(kv, group)
            dkv = _passed_on(dkv, group)
        return dq.view(gradient.shape), dkv[0], dkv[1], None


def _fold(
    q: Tensor, kv: Tensor, diagonal: bool, y: Tensor, top: Tensor, total: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Takes one block of keys into the running softmax: rescale by the new maximum, add."""
    scores = _scores(q, kv[0], diagonal)
    new_top = torch.maximum(top, scores.amax(-1))
    shrink = (top - new_top).exp()
    weights = (scores - new_top[..., None]).exp()
    y = y * shrink[..., None] + weights @ kv[1][:, :, None]
    return y, new_top, total * shrink + weights.sum(-1)


def _scores(q: Tensor, k: Tensor, diagonal: bool) -> Tensor:
    scores = q @ k[:, :, None].mT / math.sqrt(q.shape[-1])
    if not diagonal:
        return scores
    Tn = scores.shape[-1]
    future = torch.ones(Tn, Tn, dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(future, -math.inf)


def _passed_on(x: Tensor, group: Group) -> Tensor:
    if group.size == 1:
        return x
    into = torch.empty_like(x)
    group.shift(x, into)
    return into
