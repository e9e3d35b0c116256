"""FlashAttention 2 as Triton kernels: the tiles of `flash`, each a program of its own on a GPU.

One program owns a tile of queries, or of keys in the backward pass, and walks over the other side.
With TRITON_INTERPRET=1 in the environment before Triton is first imported, the same kernels run on
a CPU, line by line and slowly: for checking and reading them, not for use.

Needs the package `triton`, which torch brings along on CUDA machines only.
"""

import typing
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def flash_attention_triton(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S K"],
    *,
    causal: bool = True,
    block_q: int = 32,
    block_k: int = 32,
) -> Float[Tensor, "B H T K"]:
    """softmax(Q K^T / sqrt(K)) V; sums in float32, memory beside the output O(B H T).

    Paper: arXiv 2307.08691, algorithms 1 and 2.
    Differs: the gradients of keys and of queries are two kernels, so that no two programs write to
    one place and results do not depend on their order; each tile's scores are computed once more.

    Args:
        q: queries.
        k: keys; each of the G heads serves H / G query heads.
        v: values.
        causal: query t sees the keys up to t + S - T: the queries are the latest tokens.
        block_q: rows of a tile, a power of two from 16.
        block_k: columns of a tile, a power of two from 16.

    Raises:
        ValueError: G does not divide H, causal queries outnumber the keys, or a block's size.
    """
    (H, T), (G, S) = q.shape[1:3], k.shape[1:3]
    if H % G:
        raise ValueError(f"G={G} key/value heads must divide H={H} query heads")
    if causal and S < T:
        raise ValueError(f"T={T} causal queries see nothing of S={S} keys in their first rows")
    for size in (block_q, block_k):
        if size < 16 or size & (size - 1):
            raise ValueError(f"block_q={block_q}, block_k={block_k} must be powers of two from 16")
    out: Tensor = _FlashTriton.apply(q, k, v, causal, block_q, block_k)
    return out


class _FlashTriton(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool, block_q: int, block_k: int
    ) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        B, H, T, K = q.shape
        out = torch.empty_like(q)
        lse = torch.empty((B, H, T), dtype=torch.float32, device=q.device)
        sizes = T, k.shape[2], K, H // k.shape[1], K**-0.5
        tile = causal, block_q, block_k, triton.next_power_of_2(K)
        _forward[(triton.cdiv(T, block_q), B * H)](q, k, v, out, lse, *sizes, *tile)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.sizes, ctx.tile = sizes, tile
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        q, k, v, out, lse = ctx.saved_tensors
        (T, S, *_), (_, block_q, block_k, _) = ctx.sizes, ctx.tile
        grad = grad.contiguous()
        delta = (grad.float() * out.float()).sum(-1)  # D
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        read = q, k, v, grad, lse, delta
        rest = *ctx.sizes, *ctx.tile
        _backward_queries[(triton.cdiv(T, block_q), q.shape[0] * q.shape[1])](*read, dq, *rest)
        _backward_keys[(triton.cdiv(S, block_k), k.shape[0] * k.shape[1])](*read, dk, dv, *rest)
        return dq, dk, dv, None, None, None


# Below, q, k, ... are pointers to (B H, T, K) and (B G, S, K); head // n has the keys of a head.
# Rows and columns beyond the end are read as 0 and not written.


@triton.jit
@typing.no_type_check
def _tile(x, head, rows, T, K, WIDTH: tl.constexpr):
    """Rows of one head, (rows, WIDTH), in float32."""
    columns = tl.arange(0, WIDTH)
    place = (head * T + rows)[:, None] * K + columns[None, :]
    inside = (rows < T)[:, None] & (columns < K)[None, :]
    return tl.load(x + place, mask=inside, other=0.0).to(tl.float32)


@triton.jit
@typing.no_type_check
def _write(x, value, head, rows, T, K, WIDTH: tl.constexpr):
    columns = tl.arange(0, WIDTH)
    place = (head * T + rows)[:, None] * K + columns[None, :]
    inside = (rows < T)[:, None] & (columns < K)[None, :]
    tl.store(x + place, value.to(x.dtype.element_ty), mask=inside)


@triton.jit
@typing.no_type_check
def _scores(q, k, rows, columns, T, S, scale, CAUSAL: tl.constexpr):
    """One tile of Q K^T / sqrt(K), -inf where a key is hidden or beyond the end."""
    s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    seen = (columns < S)[None, :] & (rows < T)[:, None]
    if CAUSAL:
        seen = seen & (columns[None, :] <= rows[:, None] + (S - T))
    return tl.where(seen, s, float("-inf"))


@triton.jit
@typing.no_type_check
def _forward(
    q, k, v, out, lse, T, S, K, n, scale,
    CAUSAL: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One tile of queries: its softmax from tile to tile of the keys, divided once at the end."""
    head = tl.program_id(1)
    rows = tl.program_id(0) * BQ + tl.arange(0, BQ)
    mine = _tile(q, head, rows, T, K, WIDTH)
    top = tl.full((BQ,), float("-inf"), tl.float32)
    norm = tl.zeros((BQ,), tl.float32)
    total = tl.zeros((BQ, WIDTH), tl.float32)
    end = S
    if CAUSAL:
        end = tl.minimum(S, (tl.program_id(0) + 1) * BQ + S - T)
    for start in range(0, end, BK):
        columns = start + tl.arange(0, BK)
        keys = _tile(k, head // n, columns, S, K, WIDTH)
        s = _scores(mine, keys, rows, columns, T, S, scale, CAUSAL)
        new_top = tl.maximum(top, tl.max(s, 1))
        finite = tl.where(new_top == float("-inf"), 0.0, new_top)  # a row beyond the end
        p = tl.exp(s - finite[:, None])
        old = tl.exp(top - finite)
        norm = old * norm + tl.sum(p, 1)
        values = _tile(v, head // n, columns, S, K, WIDTH)
        total = old[:, None] * total + tl.dot(p, values, input_precision="ieee")
        top = new_top
    norm = tl.where(norm == 0.0, 1.0, norm)
    _write(out, total / norm[:, None], head, rows, T, K, WIDTH)
    tl.store(lse + head * T + rows, top + tl.log(norm), mask=rows < T)


@triton.jit
@typing.no_type_check
def _weights(
    q, k, v, grad, lse, delta, head, rows, columns, T, S, K, n, scale,
    CAUSAL: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """P = exp(S - L) and dS = P * (dP - D) / sqrt(K) of one tile, with its queries and dO."""
    mine = _tile(q, head, rows, T, K, WIDTH)
    keys = _tile(k, head // n, columns, S, K, WIDTH)
    s = _scores(mine, keys, rows, columns, T, S, scale, CAUSAL)
    log_norm = tl.load(lse + head * T + rows, mask=rows < T, other=0.0)
    p = tl.exp(s - log_norm[:, None])
    way = _tile(grad, head, rows, T, K, WIDTH)
    values = _tile(v, head // n, columns, S, K, WIDTH)
    dp = tl.dot(way, tl.trans(values), input_precision="ieee")
    d = tl.load(delta + head * T + rows, mask=rows < T, other=0.0)
    return mine, keys, way, p, p * (dp - d[:, None]) * scale


@triton.jit
@typing.no_type_check
def _backward_queries(
    q, k, v, grad, lse, delta, dq, T, S, K, n, scale,
    CAUSAL: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """dQ of one tile of queries: the sum of dS K over the tiles of keys."""
    head = tl.program_id(1)
    rows = tl.program_id(0) * BQ + tl.arange(0, BQ)
    total = tl.zeros((BQ, WIDTH), tl.float32)
    end = S
    if CAUSAL:
        end = tl.minimum(S, (tl.program_id(0) + 1) * BQ + S - T)
    for start in range(0, end, BK):
        columns = start + tl.arange(0, BK)
        _, keys, _, _, ds = _weights(
            q, k, v, grad, lse, delta, head, rows, columns, T, S, K, n, scale, CAUSAL, WIDTH
        )
        total += tl.dot(ds, keys, input_precision="ieee")
    _write(dq, total, head, rows, T, K, WIDTH)


@triton.jit
@typing.no_type_check
def _backward_keys(
    q, k, v, grad, lse, delta, dk, dv, T, S, K, n, scale,
    CAUSAL: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """dK and dV of one tile of keys: sums over the tiles of queries of all n heads it serves."""
    group = tl.program_id(1)
    columns = tl.program_id(0) * BK + tl.arange(0, BK)
    total_k = tl.zeros((BK, WIDTH), tl.float32)
    total_v = tl.zeros((BK, WIDTH), tl.float32)
    begin = 0
    if CAUSAL:  # the tile of the first query that sees the first of these keys
        begin = tl.maximum(0, tl.program_id(0) * BK - (S - T)) // BQ * BQ
    for head in range(group * n, group * n + n):
        for start in range(begin, T, BQ):
            rows = start + tl.arange(0, BQ)
            mine, _, way, p, ds = _weights(
                q, k, v, grad, lse, delta, head, rows, columns, T, S, K, n, scale, CAUSAL, WIDTH
            )
            total_k += tl.dot(tl.trans(ds), mine, input_precision="ieee")
            total_v += tl.dot(tl.trans(p), way, input_precision="ieee")
    _write(dk, total_k, group, columns, S, K, WIDTH)
    _write(dv, total_v, group, columns, S, K, WIDTH)
