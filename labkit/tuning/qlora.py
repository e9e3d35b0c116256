"""QLoRA: LoRA on top of a frozen base in four bits."""

from dataclasses import dataclass, field
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labkit.quant.linear import CodebookLinear, replace_linears
from labkit.quant.nf4 import (
    BNB_FP4_CODES,
    FP4_CODES,
    NF4_CODES,
    CodebookTensor,
    quantize_codebook,
)
from labkit.tuning import lora
from labkit.tuning.lora import LoraConfig

Model = TypeVar("Model", bound=nn.Module)
_CODEBOOKS = {"nf4": NF4_CODES, "fp4": FP4_CODES, "bnb_fp4": BNB_FP4_CODES}


@dataclass(frozen=True, kw_only=True, slots=True)
class QloraConfig:
    """The adapters, and the format of what they sit on.

    Args:
        lora: the adapters.
        codebook: "nf4", "fp4" (E2M1) or "bnb_fp4".
        block_size: weights that share a scale.
        double_quant: store the scales in 8 bits, 0.127 instead of 0.5 bits per weight.
        skip: linear layers that stay as they are, each a whole path or its last parts.
    """

    lora: LoraConfig = field(default_factory=LoraConfig)
    codebook: str = "nf4"
    block_size: int = 64
    double_quant: bool = True
    skip: tuple[str, ...] = ("lm_head",)

    def __post_init__(self) -> None:
        if self.codebook not in _CODEBOOKS:
            raise ValueError(f"codebook={self.codebook!r} must be one of {', '.join(_CODEBOOKS)}")
        if self.block_size < 1:
            raise ValueError(f"block_size={self.block_size} must be at least 1; 64 is usual")


def apply(
    model: Model,
    config: QloraConfig,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> Model:
    """Pack every linear layer into four bits, then adapt those that LoRA targets, in place.

    y = x dequantize(W)^T + scaling * (x A^T) B^T. The frozen weight is expanded for each product
    and expanded again in the backward pass, so that no dense copy is kept.

    Paper: arXiv 2305.14314v1, equation 5.

    Args:
        model: any module with linear layers.
        config: format and adapters.
        generator: draws every A; by default a fresh one with seed 0.
        dtype: of the adapters, by default that of each base layer.

    Returns:
        The same model.

    Raises:
        ValueError: as `lora.apply`, or a weight is not finite. The model is then unchanged.
    """
    lora.adapted_names(model, config.lora)
    pack(model, config)
    return lora.apply(model, config.lora, generator=generator, dtype=dtype)


def pack(model: Model, config: QloraConfig) -> Model:
    """Put every linear layer but those to skip into four bits, in place; all of them or none.

    Raises:
        ValueError: a weight is not finite, or there is no layer.
    """

    def packed(linear: nn.Linear) -> CodebookLinear:
        return CodebookLinear(quantized(linear.weight.detach(), config), linear.bias)

    return replace_linears(model, packed, skip=config.skip)


def quantized(weight: Float[Tensor, "O I"], config: QloraConfig) -> CodebookTensor:
    """The weight in the config's format.

    Raises:
        ValueError: a weight is not finite.
    """
    codes = _CODEBOOKS[config.codebook]
    return quantize_codebook(weight, codes, config.block_size, config.double_quant)
