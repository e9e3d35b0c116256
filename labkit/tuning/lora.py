"""LoRA on a whole model: put adapters in, merge them, take them out, switch them off.

Works on any module holding `nn.Linear` layers, and on frozen packed linears (QLoRA). The layer and
its settings are in `lora_layer`; they belong to this module's interface as well.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from labkit.tuning.lora_layer import LoraConfig as LoraConfig
from labkit.tuning.lora_layer import LoraLinear as LoraLinear
from labkit.tuning.lora_layer import check_rank
from labkit.tuning.targets import PackedLinear, replace, target_names

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
    model.requires_grad_(False)
    for name in names:
        base = model.get_submodule(name)
        layer = LoraLinear(base, config, generator=generator, dtype=dtype)
        layer.train(base.training)
        replace(model, name, layer)
    for name, parameter in model.named_parameters():
        if trains_bias(config, name):
            parameter.requires_grad_(True)
    return model


def adapted_names(model: nn.Module, config: LoraConfig) -> list[str]:
    """Paths of the layers that `apply` would adapt.

    Raises:
        ValueError: as `apply`.
    """
    if any(isinstance(module, LoraLinear) for module in model.modules()):
        raise ValueError("the model has LoRA adapters already; call remove or merge_and_unload")
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
    found = {name: m for name, m in model.named_modules() if isinstance(m, LoraLinear)}
    if not found:
        raise ValueError("the model has no LoRA adapters; call apply first")
    return found


def merge(model: Model) -> Model:
    """Merge every adapter into its layer; see `LoraLinear.merge`."""
    adapters = layers(model)
    if any(layer.merged for layer in adapters.values()):
        raise ValueError("the model's adapters are merged already; call unmerge first")
    for layer in adapters.values():
        layer.merge()
    return model


def unmerge(model: Model) -> Model:
    """Undo `merge`, to the bit; see `LoraLinear.unmerge`."""
    adapters = layers(model)
    if not all(layer.merged for layer in adapters.values()):
        raise ValueError("the model's adapters are not merged; call merge first")
    for layer in adapters.values():
        layer.unmerge()
    return model


def remove(model: Model) -> Model:
    """Drop the adapters and put the base layers back, in place. Trained biases stay."""
    for name, layer in layers(model).items():
        if layer.merged:
            layer.unmerge()
        replace(model, name, layer.base_layer)
    return model


def merge_and_unload(model: Model) -> Model:
    """Replace every adapter by a plain `nn.Linear` holding W + scaling * B A, in place.

    Packed layers under an adapter become dense ones.
    """
    for name, layer in layers(model).items():
        if layer.merged:
            layer.unmerge()
        weight = layer.merged_weight()
        bias = cast("Tensor | None", layer.base_layer.bias)
        dense = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        dense.weight = nn.Parameter(weight, requires_grad=False)
        dense.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)  # type: ignore[assignment]
        replace(model, name, dense.train(layer.training))
    return model


@contextmanager
def disabled(model: Model) -> Iterator[Model]:
    """Within the context the adapters are off. Trained biases stay in effect, as in PEFT.

    Raises:
        ValueError: the adapters are merged, so they cannot be left out.
    """
    adapters = list(layers(model).values())
    if any(layer.merged for layer in adapters):
        raise ValueError("merged adapters cannot be disabled; call unmerge first")
    before = [layer.enabled for layer in adapters]
    for layer in adapters:
        layer.enabled = False
    try:
        yield model
    finally:
        for layer, enabled in zip(adapters, before, strict=True):
            layer.enabled = enabled


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
