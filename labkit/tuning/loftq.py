"""LoftQ: start QLoRA's adapters from what quantization loses instead of from zero."""

from dataclasses import dataclass, field
from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labkit.quant.linear import CodebookLinear
from labkit.quant.nf4 import CodebookTensor
from labkit.tuning import lora, qlora
from labkit.tuning.adapted import wide
from labkit.tuning.qlora import QloraConfig
from labkit.tuning.targets import replace

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoftqConfig:
    """QLoRA's format and adapters, and how long to alternate.

    Args:
        qlora: as for QLoRA.
        iterations: rounds of quantizing and decomposing; 1 to 5 in the paper.
    """

    qlora: QloraConfig = field(default_factory=QloraConfig)
    iterations: int = 1

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations={self.iterations} must be at least 1; 1 to 5 is usual")
        if self.qlora.lora.use_dora:
            raise ValueError(
                "use_dora=True reads row lengths off Q, which LoftQ's start would move"
            )


@torch.no_grad()
def decompose(
    weight: Float[Tensor, "O I"], config: LoftqConfig
) -> tuple[CodebookTensor, Float[Tensor, "R I"], Float[Tensor, "O R"]]:
    """Q, A, B that make |W - Q - s B A| small: quantize W - s B A, decompose W - Q, repeat.

    s is LoRA's scaling; B and A share what is left of each singular value evenly.

    Paper: arXiv 2310.08659, algorithm 1.
    Differs: the paper, and PEFT, leave s out, so that their start is right only where s = 1.

    Returns:
        The packed weight, A and B in float32 at least.
    """
    wide_weight = weight.to(wide(weight))
    rank, scaling = config.qlora.lora.rank, config.qlora.lora.scaling
    residual = wide_weight
    for _ in range(config.iterations):
        quantized = qlora.quantized(residual.to(weight.dtype), config.qlora)
        U, S, Vh = torch.linalg.svd(
            wide_weight - quantized.dequantize().to(wide_weight.dtype), full_matrices=False
        )
        roots = (S[:rank] / scaling).sqrt()
        A, B = roots[:, None] * Vh[:rank], U[:, :rank] * roots
        residual = wide_weight - scaling * (B @ A)
    return quantized, A, B


def apply(model: Model, config: LoftqConfig, *, dtype: torch.dtype | None = None) -> Model:
    """Pack every linear layer into four bits and adapt those that LoRA targets, in place.

    The outputs change less than QLoRA changes them, and merging gives back nearly the unquantized
    weights. Nothing is drawn at random. Merge, remove and the files are LoRA's; a file holds the
    adapters only, so it must be put on a model packed by this function with the same config.

    Args:
        model: any module with linear layers.
        config: format, adapters, rounds.
        dtype: of the adapters, by default that of each base layer.

    Returns:
        The same model.

    Raises:
        ValueError: as `qlora.apply`, or a targeted layer is no plain `nn.Linear`. The model is then
            unchanged.
    """
    names = lora.adapted_names(model, config.qlora.lora)
    starts = {}
    for name in names:
        linear = model.get_submodule(name)
        if not isinstance(linear, nn.Linear):
            raise ValueError(f"{name} is a {type(linear).__name__}: its float weight is gone")
        try:
            starts[name] = decompose(linear.weight, config)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    qlora.pack(model, config.qlora)
    for name, (quantized, _, _) in starts.items():
        base = cast(nn.Linear, model.get_submodule(name))
        replace(model, name, CodebookLinear(quantized, base.bias).train(base.training))
    lora.apply(model, config.qlora.lora, dtype=dtype)
    with torch.no_grad():
        for name, layer in lora.layers(model).items():
            layer.lora_A.weight.copy_(starts[name][1])
            layer.lora_B.weight.copy_(starts[name][2])
    return model
