"""Keys and values in pages, and attention over them in plain PyTorch."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from labkit.inference.paging import Copy
from labkit.inference.step_batch import StepBatch
from labkit.model.config import ModelConfig


class PagedCache:
    """Keys (L, P, G, K, page) and values (L, P, G, page, K) of all layers.

    A page's keys lie transposed: one pass over K gives the scores of all its tokens side by side.

    Args:
        config: gives L, G and K.
        num_pages: P.
        page_size: tokens a page holds.
        dtype: of keys and values.
        device: where they lie.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_pages: int,
        page_size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        L, G, K = config.num_layers, config.num_kv_heads, config.head_width
        self.keys = torch.zeros((L, num_pages, G, K, page_size), dtype=dtype, device=device)
        self.values = torch.zeros((L, num_pages, G, page_size, K), dtype=dtype, device=device)
        self.page_size = page_size

    @property
    def parts(self) -> list[Tensor]:
        """All that a page consists of: tensors (L, P, ...), those of the largest items first."""
        return [self.keys, self.values]

    @property
    def nbytes(self) -> int:
        """2 L P G K page_size times the item size."""
        return sum(part.nbytes for part in self.parts)

    def copy(self, copies: Sequence[Copy]) -> None:
        """Copy whole pages in every layer."""
        for copy in copies:
            for part in self.parts:
                part[:, copy.to] = part[:, copy.source]

    def write(
        self,
        layer: int,
        places: Int[Tensor, " N"],
        k: Float[Tensor, "N G K"],
        v: Float[Tensor, "N G K"],
    ) -> None:
        """Put each token's keys and values in its place."""
        page, row = places // self.page_size, places % self.page_size
        self.keys[layer][page, :, :, row] = k.to(self.keys.dtype)
        self.values[layer][page, :, row] = v.to(self.values.dtype)

    def read(
        self, layer: int, tables: Int[Tensor, "B W"]
    ) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S K"]]:
        """The pages of each table joined: S = W * page_size tokens, also those not written yet."""
        return joined(self.keys[layer][tables], self.values[layer][tables])


def joined(
    keys: Shaped[Tensor, "B W G K page"], values: Shaped[Tensor, "B W G page K"]
) -> tuple[Shaped[Tensor, "B G S K"], Shaped[Tensor, "B G S K"]]:
    """Pages one after the other as tokens: S = W * page."""
    k = keys.permute(0, 2, 1, 4, 3).flatten(2, 3)  # (B, W, G, K, page) -> (B, G, W page, K)
    v = values.permute(0, 2, 1, 3, 4).flatten(2, 3)  # (B, W, G, page, K) -> the same
    return k, v


def paged_attention(
    q: Float[Tensor, "N H K"],
    cache: PagedCache,
    layer: int,
    batch: StepBatch,
    window: int | None = None,
) -> Float[Tensor, "N H K"]:
    """softmax(q K^T / sqrt(K)) V of each token over its sequence's tokens up to itself.

    Sequences with one token each (decoding) run as one padded batch; those with several (prefill)
    one by one, over no more pages than they have.

    Args:
        q: queries, rotated.
        cache: holds the step's own keys and values already.
        layer: which one.
        batch: tables and positions.
        window: the latest tokens a query sees, itself included; None: all.
    """
    y = torch.empty_like(q)
    counts = [end - begin for begin, end in zip(batch.starts, batch.starts[1:], strict=False)]
    single = [row for row, count in enumerate(counts) if count == 1]
    groups = [[row] for row, count in enumerate(counts) if count > 1]
    for rows in [single, *groups] if single else groups:
        tokens = [n for row in rows for n in range(batch.starts[row], batch.starts[row + 1])]
        T = len(tokens) // len(rows)
        positions = batch.positions[tokens].view(len(rows), T)
        W = math.ceil((int(positions.max()) + 1) / cache.page_size)
        k, v = cache.read(layer, batch.tables[rows, :W])
        seen = torch.arange(k.shape[2], device=q.device)
        mask = seen <= positions[..., None]  # (B, T, S)
        if window is not None:
            mask = mask & (seen > positions[..., None] - window)
        queries = q[tokens].view(len(rows), T, *q.shape[1:]).transpose(1, 2)  # (B, H, T, K)
        out = functional.scaled_dot_product_attention(
            queries, k.to(q.dtype), v.to(q.dtype), mask[:, None], enable_gqa=True
        )
        y[tokens] = out.transpose(1, 2).reshape(-1, *q.shape[1:])
    return y
