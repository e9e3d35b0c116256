"""UniPELT: LoRA, an adapter and a prefix together, each behind a gate that learns its worth.

There is no merge, since gates depend on the input, and no file format.
"""

from dataclasses import dataclass, field
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labkit.tuning import adapted, bottleneck, prefix_tuning, soft_prompt
from labkit.tuning.adapted import Addition
from labkit.tuning.bottleneck import Bottleneck, BottleneckConfig
from labkit.tuning.lora_layer import LoraConfig, LoraLinear, check_rank
from labkit.tuning.prefix_tuning import Prefix, PrefixTuningConfig
from labkit.tuning.targets import replace, target_names

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True, slots=True)
class UnipeltConfig:
    """The three parts.

    Args:
        lora: on attention's queries and values by default; no DoRA, no trained biases.
        adapter: sequential, after the feed-forward network by default.
        prefix: of every attention layer.
    """

    lora: LoraConfig = field(default_factory=LoraConfig)
    adapter: BottleneckConfig = field(default_factory=lambda: bottleneck.pfeiffer(48))
    prefix: PrefixTuningConfig = field(
        default_factory=lambda: PrefixTuningConfig(num_virtual_tokens=10)
    )

    def __post_init__(self) -> None:
        if self.lora.use_dora or self.lora.bias != "none":
            raise ValueError(
                f"lora has use_dora={self.lora.use_dora} and bias={self.lora.bias!r}: a gate "
                "scales only what LoRA adds; leave them off"
            )


class Gate(nn.Module):
    """sigmoid(w . x + b) of each token, 1/2 at the start. I + 1 weights."""

    def __init__(self, width: int, like: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(like.new_zeros(width))
        self.bias = nn.Parameter(like.new_zeros(()))

    def forward(self, x: Float[Tensor, "*B T I"]) -> Float[Tensor, "*B T 1"]:
        x = x.to(self.weight.dtype)
        gate: Tensor = torch.sigmoid((x * self.weight).sum(-1, keepdim=True) + self.bias)
        return gate


class GatedLora(Addition):
    """y = base(x) + g(x) * s * (x A^T) B^T. No LoRA layer to others: it cannot be merged."""

    method = "UniPELT"

    def __init__(self, part: LoraLinear) -> None:
        super().__init__()
        self.base_layer = part.base_layer
        self.lora_A, self.lora_B, self.scaling = part.lora_A, part.lora_B, part.scaling
        self.dropout = part.dropout
        self.gate = Gate(part.in_features, part.lora_A.weight)

    def forward(self, x: Float[Tensor, "*B T I"]) -> Float[Tensor, "*B T O"]:
        y: Tensor = self.base_layer(x)
        source = x.to(self.lora_A.weight.dtype)
        dropped = source if self.dropout is None else self.dropout(source)
        change: Tensor = self.gate(source) * self.scaling * self.lora_B(self.lora_A(dropped))
        return y + change.to(y.dtype)


class GatedBottleneck(Bottleneck):
    """y + g(z) times what a bottleneck adapter adds."""

    method = "UniPELT"

    def __init__(
        self,
        base: nn.Module,
        config: BottleneckConfig,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(base, config, generator=generator, dtype=dtype)
        self.gate = Gate(self.down.in_features, self.down.weight)

    def change(self, z: Float[Tensor, "*B T Z"]) -> Float[Tensor, "*B T O"]:
        gate: Tensor = self.gate(z)
        return gate * super().change(z)


class GatedPrefix(Prefix):
    """A prefix whose keys and values in layer l are scaled by sigmoid(b_l). L weights more."""

    method = "UniPELT"

    def __init__(self, model: nn.Module, config: PrefixTuningConfig) -> None:
        super().__init__(model, config)
        self.gate_bias = nn.Parameter(torch.zeros(self.shape[0]))

    def keys_values(
        self, batch_size: int
    ) -> tuple[Float[Tensor, "L B G P K"], Float[Tensor, "L B G P K"]]:
        keys, values = super().keys_values(batch_size)
        gate = torch.sigmoid(self.gate_bias)[:, None, None, None, None]
        return gate * keys, gate * values


def apply(
    model: Model,
    config: UnipeltConfig,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> Model:
    """Freeze the model and add the three parts and their gates, in place.

    The prefix changes the outputs at once; LoRA and the adapters add nothing yet.

    Paper: arXiv 2110.07577, section 3.
    Differs: the paper's gates read the mean over the sequence, which in a decoder would show a
    token its future. Here the gates of LoRA and of the adapters read their own token only, and
    that of the prefix, which all tokens share, reads nothing.

    Args:
        model: a MiniLLM or a transformers decoder.
        config: the parts.
        generator: draws them; by default a fresh one with seed 0.
        dtype: of what trains, by default the base's.

    Returns:
        The same model.

    Raises:
        ValueError: as the parts' `apply`, or a layer is both LoRA's and an adapter's. The model is
            then unchanged.
    """
    adapted.refuse_adapted(model)
    lora_names = target_names(model, config.lora.target_modules)
    adapter_names = bottleneck.target_names(model, config.adapter)
    for name in lora_names:
        check_rank(config.lora.rank, model.get_submodule(name), name)
        if any(f"{name}.".startswith(f"{other}.") for other in adapter_names):
            raise ValueError(f"{name} lies in what lora and what adapter target: choose one")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    prefix = prefix_tuning.draw(model, config.prefix, generator, dtype, GatedPrefix)

    def make(name: str, base: nn.Module) -> nn.Module:
        if name in lora_names:
            return GatedLora(LoraLinear(base, config.lora, generator=generator, dtype=dtype))
        return GatedBottleneck(base, config.adapter, generator=generator, dtype=dtype)

    adapted.wrap(model, [*lora_names, *adapter_names], make)
    prefix.install(model)
    return model


def gates(model: nn.Module) -> dict[str, Float[Tensor, "..."]]:
    """sigmoid(b) of every gate by path, what a token of zeros gets; a prefix has one per layer.

    Raises:
        ValueError: the model has no UniPELT.
    """
    prefix = soft_prompt.of(model, GatedPrefix)
    found = {name: torch.sigmoid(m.bias) for name, m in model.named_modules() if type(m) is Gate}
    return found | {soft_prompt.NAME: torch.sigmoid(prefix.gate_bias)}


def remove(model: Model) -> Model:
    """Take the three parts away, in place."""
    soft_prompt.of(model, GatedPrefix).uninstall(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, GatedLora | GatedBottleneck):
            replace(model, name, module.base_layer)
    return model
