"""DoRA's layer: LoRA turns each row of the weight, and a trained vector sets the rows' lengths."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from labkit.tuning.adapted import wide
from labkit.tuning.lora_layer import LoraConfig, LoraLinear


class DoraLinear(LoraLinear):
    """y = m / |W + s B A| * (x (W + s B A)^T) + b, with m = |W| at the start.

    |.| is the length of each of the O rows that a linear layer of shape (O, I) stores: the columns
    of the paper's weight. It follows B A but takes no gradient (section 4.3), which the paper
    counts a quarter of the training memory. R (I + O) + O weights train. Every step forms B A.

    Paper: arXiv 2402.09353, equations 5 and 11.

    Args:
        base, config, generator, dtype: as for `LoraLinear`.
    """

    method = "DoRA"

    def __init__(
        self,
        base: nn.Module,
        config: LoraConfig,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(base, config, generator=generator, dtype=dtype)
        length = self.direction_length().to(self.lora_A.weight.dtype)
        self.lora_magnitude_vector = nn.Parameter(length)

    def forward(self, x: Float[Tensor, "*B T I"]) -> Float[Tensor, "*B T O"]:
        base = self.base_layer(x)
        if self.merged or not self.enabled:
            return cast(Tensor, base)
        bias = cast("Tensor | None", self.base_layer.bias)
        turned = base if bias is None else base - bias
        if self.dropout is not None and self.training:
            x = self.dropout(x)
            turned = functional.linear(x, self.base_weight().to(x.dtype))
        hidden = functional.linear(x, self.lora_A.weight.to(x.dtype))
        delta = functional.linear(hidden, self.lora_B.weight.to(base.dtype)) * self.scaling
        scale = self._scale().to(base.dtype)
        # A sum of changes: with B = 0 the scale is 1 and both are exactly zero.
        return cast(Tensor, base + (scale - 1) * turned + scale * delta)

    @torch.no_grad()
    def direction_length(self) -> Float[Tensor, " O"]:
        """|W + s B A| of each row, in at least float32."""
        weight = self.base_weight()
        length: Tensor = torch.linalg.vector_norm(self.moved(weight.to(wide(weight))), dim=1)
        return length

    @torch.no_grad()
    def merged_weight(self) -> Float[Tensor, "O I"]:
        """m / |W + s B A| * (W + s B A), rounded once to W's dtype."""
        weight = self.base_weight()
        moved = self.moved(weight.to(wide(weight)))
        return (self._scale()[:, None] * moved).to(weight.dtype)

    def _scale(self) -> Tensor:
        m = self.lora_magnitude_vector
        return m / self.direction_length().to(m.dtype)
