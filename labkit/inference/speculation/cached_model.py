"""A model that reads one sequence piece by piece and can forget its end."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.model.cache import KVCache
from labkit.model.minillm import MiniLLM
from labkit.tuning import soft_prompt


class CachedModel:
    """A model and the KV cache of one sequence, counted in real tokens.

    A soft prompt's virtual tokens lie in the cache too, but in no length that is told here.

    Args:
        model: Any MiniLLM, with adapters, quantized linears or a soft prompt or without.
        max_length: Most tokens that will be in the cache at once.

    Raises:
        ValueError: `max_length` is above the model's, or above its sliding window, whose cache
            cannot be rolled back.
    """

    def __init__(self, model: MiniLLM, *, max_length: int) -> None:
        self.model = model
        self._virtual = soft_prompt.virtual_tokens(model)
        rows = max_length + self._virtual
        if rows > model.config.max_length:
            raise ValueError(f"{rows} tokens exceed max_length={model.config.max_length}")
        window = model.config.sliding_window
        if window is not None and rows > window:
            raise ValueError(
                f"{rows} tokens exceed sliding_window={window}, beyond which rejected tokens "
                "cannot be forgotten: use fewer tokens, or labkit.inference.generate"
            )
        weight = model.model.embed_tokens.weight
        self._device = weight.device
        self.cache = KVCache(
            model.config, batch_size=1, max_length=rows, dtype=weight.dtype, device=weight.device
        )

    @property
    def length(self) -> int:
        """Real tokens in the cache."""
        return max(0, self.cache.length - self._virtual)

    @property
    def max_length(self) -> int:
        """Real tokens that the cache has room for."""
        return self.cache.max_length - self._virtual

    @torch.no_grad()
    def read(self, tokens: Sequence[int], *, last_only: bool = False) -> Float[Tensor, "Q V"]:
        """Logits after each of the next tokens, or after the last alone."""
        ids = torch.tensor([list(tokens)], device=self._device)
        logits: Tensor = self.model(ids, cache=self.cache, last_only=last_only)
        return logits[0]

    def truncate(self, length: int) -> None:
        """Forget every token from position `length` on."""
        self.cache.truncate(length + self._virtual if length else 0)

    def copy(self) -> "CachedModel":
        """The same model with its own copy of the cache."""
        other = CachedModel(self.model, max_length=self.max_length)
        other.cache.keys.copy_(self.cache.keys)
        other.cache.values.copy_(self.cache.values)
        other.cache.advance(self.cache.length)
        return other
