"""The KV cache: keys and values of every token seen, so that each is computed once."""

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.model.config import ModelConfig


class KVCache:
    """Keys and values of all layers in two tensors (L, B, G, S_max, K), allocated once.

    A step writes its T new rows in place and attends over a view of the filled part, so decoding
    never copies what it already holds. Every layer appends at `length`; the model then calls
    `advance` once. The cache holds no gradients.

    Args:
        config: gives L, G and K.
        batch_size: B, sequences that share the cache.
        max_length: S_max, tokens there is room for.
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
        shape = (config.num_layers, batch_size, G, max_length, K)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.length = 0

    @property
    def batch_size(self) -> int:
        return self.keys.shape[1]

    @property
    def max_length(self) -> int:
        return self.keys.shape[3]

    @property
    def nbytes(self) -> int:
        """Bytes allocated: 2 L B G S_max K times the item size."""
        return self.keys.nbytes + self.values.nbytes

    def append(
        self, layer: int, k: Float[Tensor, "B G T K"], v: Float[Tensor, "B G T K"]
    ) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S K"]]:
        """Stores T new rows of one layer and returns views of all S = length + T rows.

        Raises:
            ValueError: no room, another batch size, or gradients are being recorded.
        """
        B, _, T, _ = k.shape
        end = self.length + T
        if self.batch_size != B:
            raise ValueError(f"the cache holds batch_size={self.batch_size}, the step has B={B}")
        if end > self.max_length:
            raise ValueError(
                f"{self.length} cached + {T} new tokens exceed max_length={self.max_length}"
            )
        if k.requires_grad or v.requires_grad:
            raise ValueError("a KVCache holds no gradients: call the model under torch.no_grad()")
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, T: int) -> None:
        """Counts the T rows that every layer has just appended."""
        if self.length + T > self.max_length:
            raise ValueError(f"length={self.length} + {T} exceeds max_length={self.max_length}")
        self.length += T

    def truncate(self, length: int) -> None:
        """Forgets every token from position `length` on; the room can be filled again."""
        if not 0 <= length <= self.length:
            raise ValueError(f"length={length} must lie in [0, {self.length}]")
        self.length = length
