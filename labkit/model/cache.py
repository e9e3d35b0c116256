"""The KV cache: keys and values of every token seen, so that each is computed once."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from labkit.model.config import ModelConfig

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


@runtime_checkable
class AttentionCache(Protocol):
    """What an attention layer asks of a cache, however that keeps its tokens."""

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "B H T K"],
        k: Float[Tensor, "B G T K"],
        v: Float[Tensor, "B G T K"],
        mask: Bool[Tensor, "#B 1 T S"] | None,
        attend: Attend,
    ) -> Float[Tensor, "B H T K"]:
        """Take in the new keys and values, then attend over all of them."""
        ...


class KVCache:
    """Keys and values of all layers in two tensors (L, B, G, R, K), allocated once.

    A step writes its T new rows in place and attends over a view of the filled part, so decoding
    never copies what it already holds. Every layer appends at `length`; the model then calls
    `advance` once. The cache holds no gradients.

    R is `max_length`, or the sliding window where that is shorter: then the token at position p
    lies in row p mod R, a new one replacing the one that has just left its window. One step over
    several tokens beyond R copies the window, once.

    Args:
        config: gives L, G, K and the window.
        batch_size: B, sequences that share the cache.
        max_length: tokens a sequence may have.
        dtype: of the keys and values; the model's own.
        device: where they lie; the model's own.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        batch_size: int,
        max_length: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if batch_size < 1 or max_length < 1:
            raise ValueError(f"batch_size={batch_size} and max_length={max_length} must be >= 1")
        G, K = config.num_kv_heads, config.head_width
        R = min(max_length, config.sliding_window or max_length)
        shape = (config.num_layers, batch_size, G, R, K)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.max_length = max_length
        self.length = 0
        self._newest = 0  # the most that `length` was: older tokens than _newest - R are gone

    @property
    def batch_size(self) -> int:
        return self.keys.shape[1]

    @property
    def rows(self) -> int:
        """R, tokens whose keys and values are kept."""
        return self.keys.shape[3]

    @property
    def nbytes(self) -> int:
        """Bytes allocated: 2 L B G R K times the item size."""
        return self.keys.nbytes + self.values.nbytes

    def append(
        self, layer: int, k: Float[Tensor, "B G T K"], v: Float[Tensor, "B G T K"]
    ) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S K"]]:
        """Stores T new rows of one layer and returns those that the new tokens may see.

        These are views of all length + T rows until the window is full; `key_positions` tells
        which tokens they belong to.

        Raises:
            ValueError: no room, another batch size, or gradients are being recorded.
        """
        T = k.shape[2]
        end = self.length + T
        self._check(k, v, end)
        keys, values = self.keys[layer], self.values[layer]  # (B, G, R, K)
        if end <= self.rows:
            keys[:, :, self.length : end] = k
            values[:, :, self.length : end] = v
            return keys[:, :, :end], values[:, :, :end]
        if T > 1:
            old = self.key_positions(T)[:-T] % self.rows
            seen = torch.cat((keys[:, :, old], k), 2), torch.cat((values[:, :, old], v), 2)
        else:
            seen = keys, values
        last = torch.arange(max(self.length, end - self.rows), end, device=k.device)
        keys[:, :, last % self.rows] = k[:, :, last - self.length]
        values[:, :, last % self.rows] = v[:, :, last - self.length]
        return seen

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "B H T K"],
        k: Float[Tensor, "B G T K"],
        v: Float[Tensor, "B G T K"],
        mask: Bool[Tensor, "#B 1 T S"] | None,
        attend: Attend,
    ) -> Float[Tensor, "B H T K"]:
        """`attend` over the rows that `append` returns; raises as that."""
        return attend(q, *self.append(layer, k, v), mask)

    def key_positions(self, T: int) -> Int[Tensor, "S"]:
        """The positions of the tokens whose keys `append` returns for T new ones, in their order.

        A full window gives back, for one token, its rows as they lie, and for several the
        R - 1 tokens before them and then themselves.
        """
        end, R = self.length + T, self.rows
        device = self.keys.device
        if end <= R or T > 1:
            return torch.arange(max(0, self.length - R + 1), end, device=device)
        rows = torch.arange(R, device=device)
        return self.length - (self.length - rows) % R

    def _check(self, k: Tensor, v: Tensor, end: int) -> None:
        if self.batch_size != k.shape[0]:
            raise ValueError(
                f"the cache holds batch_size={self.batch_size}, the step has B={k.shape[0]}"
            )
        if end > self.max_length:
            raise ValueError(
                f"{self.length} cached + {end - self.length} new tokens exceed "
                f"max_length={self.max_length}"
            )
        if k.requires_grad or v.requires_grad:
            raise ValueError("a KVCache holds no gradients: call the model under torch.no_grad()")

    def advance(self, T: int) -> None:
        """Counts the T rows that every layer has just appended."""
        if self.length + T > self.max_length:
            raise ValueError(f"length={self.length} + {T} exceeds max_length={self.max_length}")
        self.length += T
        self._newest = max(self._newest, self.length)

    def truncate(self, length: int) -> None:
        """Forgets every token from position `length` on; the room can be filled again.

        Raises:
            ValueError: `length` is none the cache has had, or the window has rolled over tokens
                that the next one would see.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"length={length} must lie in [0, {self.length}]")
        if length == 0 or self._newest <= self.rows:
            self._newest = length
        elif length < self._newest - 1:
            raise ValueError(
                f"length={length}: of {self._newest} tokens the window keeps the last {self.rows}, "
                "so that only the last one can be forgotten; truncate to 0 and start anew"
            )
        self.length = length
