"""LoRA, rsLoRA and DoRA on a whole model: put adapters in, merge, take out, switch off.

Works on any module holding `nn.Linear` layers, and on frozen packed linears (QLoRA). The layer and
its settings are in `lora_layer`; they belong to this module's interface as well.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from labkit.tuning import adapted
from labkit.tuning.dora_layer import DoraLinear
from labkit.tuning.lora_layer import LoraConfig as LoraConfig
from labkit.tuning.lora_layer import LoraLinear as LoraLinear
from labkit.tuning.lora_layer import check_rank
from labkit.tuning.targets import PackedLinear, target_names

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of scalar weights; those of packed layers count as unpacked."""

    trainable: int
    total: int


def apply(
    model: Model,
    config: LoraConfig,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> Model:
    """Freeze the model and put a `LoraLinear` around every layer the config targets, in place.

    Everything is checked before anything changes. The outputs stay the same to the bit until the
    adapters are trained. R (I + O) weights train in each adapted layer.

    Args:
        model: any module with linear layers.
        config: what to adapt.
        generator: draws every A; by default a fresh one with seed 0.
        dtype: of the adapters, by default that of each base layer.

    Returns:
        The same model.

    Raises:
        ValueError: no layer matches, the rank is too large, or the model has adapters already.
    """
    names = adapted_names(model, config)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    kind = DoraLinear if config.use_dora else LoraLinear
    adapted.wrap(model, names, lambda _, base: kind(base, config, generator=generator, dtype=dtype))
    for name, parameter in model.named_parameters():
        if trains_bias(config, name):
            parameter.requires_grad_(True)
    return model


def adapted_names(model: nn.Module, config: LoraConfig) -> list[str]:
    """Paths of the layers that `apply` would adapt.

    Raises:
        ValueError: as `apply`.
    """
    adapted.refuse_adapted(model)
    names = target_names(model, config.target_modules)
    for name in names:
        check_rank(config.rank, model.get_submodule(name), name)
    return names


def trains_bias(config: LoraConfig, name: str) -> bool:
    """Whether a parameter of an adapted model is a bias that the config trains."""
    if config.bias == "lora_only":
        return name.endswith("base_layer.bias")
    return config.bias == "all" and name.rpartition(".")[2] == "bias"


def layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The model's adapters by path.

    Raises:
        ValueError: there are none.
    """
    return adapted.layers(model, LoraLinear)


def merge(model: Model) -> Model:
    """Merge every adapter into its layer, W <- W + scaling * B A; see `AdaptedLinear.merge`."""
    return adapted.merge(model, LoraLinear)


def unmerge(model: Model) -> Model:
    """Undo `merge`, to the bit; see `AdaptedLinear.unmerge`."""
    return adapted.unmerge(model, LoraLinear)


def remove(model: Model) -> Model:
    """Drop the adapters and put the base layers back, in place. Trained biases stay."""
    return adapted.remove(model, LoraLinear)


def merge_and_unload(model: Model) -> Model:
    """Replace every adapter by a plain `nn.Linear` holding W + scaling * B A, in place.

    Packed layers under an adapter become dense ones.
    """
    return adapted.merge_and_unload(model, LoraLinear)


@contextmanager
def disabled(model: Model) -> Iterator[Model]:
    """Within the context the adapters are off. Trained biases stay in effect, as in PEFT.

    Raises:
        ValueError: the adapters are merged, so they cannot be left out.
    """
    with adapted.disabled(model, LoraLinear):
        yield model


def trainable_parameters(model: nn.Module) -> Counts:
    """Number of trainable weights and of all weights, shared ones once."""
    parameters = list(model.parameters())
    packed = sum(
        m.in_features * m.out_features for m in model.modules() if isinstance(m, PackedLinear)
    )
    return Counts(
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        total=sum(p.numel() for p in parameters) + packed,
    )
