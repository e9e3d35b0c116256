"""The two phases of generation over a left-padded batch: one prefill, then one token a step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from labkit.model.cache import KVCache
from labkit.model.minillm import MiniLLM
from labkit.tuning import soft_prompt


class BatchDecoder:
    """A batch of prompts, their KV cache and the logits of each next token.

    Prompts of unequal length are padded on the left, so that every row's last token is in the last
    column; a mask hides the padding and positions count real tokens only, which makes each row's
    logits those it has alone. Without padding no mask is built at all. Only the last position's
    logits are computed, and cache, mask and positions are allocated once for the whole run.

    Args:
        model: Any MiniLLM, with adapters or quantized linears or without.
        prompts: Token ids, at least one in each row.
        max_steps: Most tokens that will be fed after the prompts.
    """

    def __init__(self, model: MiniLLM, prompts: list[list[int]], *, max_steps: int) -> None:
        embedding = model.model.embed_tokens.weight
        B, T = len(prompts), max(len(prompt) for prompt in prompts)
        self._model = model
        self._virtual = soft_prompt.virtual_tokens(model)
        self._device = embedding.device
        self._cache = KVCache(
            model.config,
            batch_size=B,
            max_length=T + max_steps + self._virtual,
            dtype=embedding.dtype,
            device=self._device,
        )
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self._device)
        rows = [[0] * (T - len(prompt)) + prompt for prompt in prompts]
        self._ids = torch.tensor(rows, device=self._device)
        self._next_position = lengths[:, None]  # (B, 1)
        columns = torch.arange(T + max_steps, device=self._device)
        self._real = columns >= T - self._next_position  # (B, S)
        self._padded = bool((lengths < T).any())

    @torch.no_grad()
    def prefill(self) -> Float[Tensor, "B V"]:
        """Run all prompts at once; logits of each row's first new token."""
        T = self._ids.shape[1]
        offsets = torch.arange(T, device=self._device) - T
        positions = (self._next_position + offsets).clamp(min=0)
        return self._logits(self._ids, positions)

    @torch.no_grad()
    def step(self, tokens: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Append one token a row; logits of the token after it."""
        # A finished row is fed on until the batch ends: its positions must stay in the table.
        last = self._model.config.max_length - self._virtual - 1
        positions = self._next_position.clamp(max=last)
        self._next_position = self._next_position + 1
        return self._logits(tokens.to(self._device)[:, None], positions)

    def _logits(self, ids: Tensor, positions: Tensor) -> Tensor:
        S = max(0, self._cache.length - self._virtual) + ids.shape[1]
        mask = self._real[:, :S] if self._padded else None
        logits: Tensor = self._model(
            ids, cache=self._cache, positions=positions, padding_mask=mask, last_only=True
        )
        return logits[:, -1]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off for the run, and back on if the model was training."""
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in was_training:
            module.training = True
