"""FlashAttention 1 and 2: exact attention tile by tile, which never holds a T x S matrix.

A softmax over all keys is found from one tile of them at a time by rescaling what was summed under
an older maximum. Both algorithms do that; they differ in which loop is outside and in what they
keep for the backward pass. Here they are plain torch, to be read and checked: the order of work and
the memory are the algorithms', the speed is that of the GPU kernels only there.

Memory beside the inputs and the output: O(B H T) of statistics, and one tile.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Gradients = tuple[Tensor, Tensor, Tensor, None, None, None]


def flash_attention_1(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S K"],
    *,
    causal: bool = True,
    block_q: int = 64,
    block_k: int = 64,
) -> Float[Tensor, "B H T K"]:
    """softmax(Q K^T / sqrt(K)) V, the loop over keys outside.

    The output of every query block is read, rescaled and written again for each key block.

    Paper: arXiv 2205.14135, algorithm 1; backward algorithm 4. Differs: no dropout.

    Args:
        q: queries.
        k: keys; each of the G heads serves H / G query heads.
        v: values.
        causal: query t sees the keys up to t + S - T: the queries are the latest tokens.
        block_q: rows of a tile.
        block_k: columns of a tile.

    Raises:
        ValueError: G does not divide H, a block is empty, or causal queries outnumber the keys.
    """
    _check(q, k, causal, block_q, block_k)
    out: Tensor = _Flash1.apply(
        _grouped(q, k), k[:, :, None], v[:, :, None], causal, block_q, block_k
    )
    return out.flatten(1, 2)


def flash_attention_2(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S K"],
    *,
    causal: bool = True,
    block_q: int = 64,
    block_k: int = 64,
) -> Float[Tensor, "B H T K"]:
    """softmax(Q K^T / sqrt(K)) V, the loop over queries outside.

    A query block's output stays at hand until it is done and is divided once, at the end; query
    blocks do not depend on each other. One statistic a row is kept, not two.

    Paper: arXiv 2307.08691, algorithm 1; backward algorithm 2.

    Args:
        q: queries.
        k: keys; each of the G heads serves H / G query heads.
        v: values.
        causal: query t sees the keys up to t + S - T: the queries are the latest tokens.
        block_q: rows of a tile.
        block_k: columns of a tile.

    Raises:
        ValueError: as `flash_attention_1`.
    """
    _check(q, k, causal, block_q, block_k)
    out: Tensor = _Flash2.apply(
        _grouped(q, k), k[:, :, None], v[:, :, None], causal, block_q, block_k
    )
    return out.flatten(1, 2)


class _Flash1(torch.autograd.Function):
    """Algorithms 1 and 4; q (B, G, H/G, T, K), k and v (B, G, 1, S, K)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool, block_q: int, block_k: int
    ) -> Tensor:
        wide = torch.promote_types(q.dtype, torch.float32)
        out = torch.zeros(q.shape, dtype=wide, device=q.device)
        norm = torch.zeros((*q.shape[:-1], 1), dtype=wide, device=q.device)  # l
        top = torch.full_like(norm, -math.inf)  # m
        for keys in _blocks(k.shape[3], block_k):
            for rows in _blocks(q.shape[3], block_q):
                s = _scores(q, k, rows, keys, causal)
                if s is None:
                    continue
                tile_top = s.amax(-1, keepdim=True)
                # A row that sees nothing of this tile: -inf - -inf would be NaN.
                p = (s - tile_top.masked_fill(tile_top == -math.inf, 0)).exp()
                old_top, old_norm = top[..., rows, :], norm[..., rows, :]
                new_top = torch.maximum(old_top, tile_top)
                old, new = (old_top - new_top).exp(), (tile_top - new_top).exp()
                new_norm = old * old_norm + new * p.sum(-1, keepdim=True)
                total = old_norm * old * out[..., rows, :] + new * (p @ v[..., keys, :].to(wide))
                out[..., rows, :] = total / new_norm
                norm[..., rows, :], top[..., rows, :] = new_norm, new_top
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, norm, top)
        ctx.tiling = causal, block_q, block_k
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        q, k, v, out, norm, top = ctx.saved_tensors
        return _backward((q, k, v), out, grad, (top, norm), ctx.tiling)


class _Flash2(torch.autograd.Function):
    """Algorithms 1 and 2; shapes as `_Flash1`."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool, block_q: int, block_k: int
    ) -> Tensor:
        wide = torch.promote_types(q.dtype, torch.float32)
        out = torch.empty_like(q)
        lse = torch.empty((*q.shape[:-1], 1), dtype=wide, device=q.device)  # L
        for rows in _blocks(q.shape[3], block_q):
            total = torch.zeros(q[..., rows, :].shape, dtype=wide, device=q.device)
            norm = torch.zeros_like(total[..., :1])
            top = torch.full_like(norm, -math.inf)
            for keys in _blocks(k.shape[3], block_k):
                s = _scores(q, k, rows, keys, causal)
                if s is None:
                    break  # so are all later keys
                new_top = torch.maximum(top, s.amax(-1, keepdim=True))
                p = (s - new_top).exp()
                old = (top - new_top).exp()
                norm = old * norm + p.sum(-1, keepdim=True)
                total = old * total + p @ v[..., keys, :].to(wide)
                top = new_top
            out[..., rows, :] = (total / norm).to(q.dtype)
            lse[..., rows, :] = top + norm.log()
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.tiling = causal, block_q, block_k
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        q, k, v, out, lse = ctx.saved_tensors
        return _backward((q, k, v), out, grad, (lse, torch.ones_like(lse)), ctx.tiling)


def _backward(
    qkv: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    grad: Tensor,
    statistics: tuple[Tensor, Tensor],
    tiling: tuple[bool, int, int],
) -> Gradients:
    """Each tile of P = exp(S - m) / l is computed again; dS = P * (dP - D), D = rowsum(dO * O).

    The two papers' passes differ in D, which the first computes in every tile and the second once,
    as here, and in the statistics: the second gives L = m + log l for m and 1 for l.
    """
    q, k, v = qkv
    causal, block_q, block_k = tiling
    top, norm = statistics
    grad = grad.to(top.dtype)
    dq, dk, dv = (torch.zeros(x.shape, dtype=top.dtype, device=x.device) for x in qkv)
    delta = (grad * out).sum(-1, keepdim=True)  # D
    scale = q.shape[-1] ** -0.5
    for keys in _blocks(k.shape[3], block_k):
        for rows in _blocks(q.shape[3], block_q):
            s = _scores(q, k, rows, keys, causal)
            if s is None:
                continue
            p = (s - top[..., rows, :]).exp() / norm[..., rows, :]
            dp = grad[..., rows, :] @ v[..., keys, :].to(p.dtype).mT
            ds = scale * p * (dp - delta[..., rows, :])
            dq[..., rows, :] += ds @ k[..., keys, :].to(p.dtype)
            # The heads of a group share their keys: their gradients add up.
            dk[..., keys, :] += (ds.mT @ q[..., rows, :].to(p.dtype)).sum(2, keepdim=True)
            dv[..., keys, :] += (p.mT @ grad[..., rows, :]).sum(2, keepdim=True)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None, None


def _scores(q: Tensor, k: Tensor, rows: slice, keys: slice, causal: bool) -> Tensor | None:
    """One tile of Q K^T / sqrt(K), -inf where a key is hidden; None where all are."""
    ahead = k.shape[3] - q.shape[3]  # query t stands at position t + ahead
    if causal and keys.start > rows.stop - 1 + ahead:
        return None
    wide = torch.promote_types(q.dtype, torch.float32)
    s: Tensor = q[..., rows, :].to(wide) @ k[..., keys, :].to(wide).mT * q.shape[-1] ** -0.5
    if causal and keys.stop - 1 > rows.start + ahead:
        at = torch.arange(rows.start, rows.stop, device=q.device)[:, None] + ahead
        hidden = torch.arange(keys.start, keys.stop, device=q.device) > at
        s = s.masked_fill(hidden, -math.inf)
    return s


def _blocks(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _grouped(q: Tensor, k: Tensor) -> Tensor:
    """(B, H, T, K) -> (B, G, H/G, T, K): queries beside the keys they share."""
    grouped: Tensor = q.unflatten(1, (k.shape[1], -1))
    return grouped


def _check(q: Tensor, k: Tensor, causal: bool, block_q: int, block_k: int) -> None:
    (H, T), (G, S) = q.shape[1:3], k.shape[1:3]
    if H % G:
        raise ValueError(f"G={G} key/value heads must divide H={H} query heads")
    if block_q < 1 or block_k < 1:
        raise ValueError(f"block_q={block_q} and block_k={block_k} must be at least 1")
    if causal and S < T:
        raise ValueError(f"T={T} causal queries see nothing of S={S} keys in their first rows")
