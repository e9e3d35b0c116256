"""BitFit: only the biases train.

There is nothing to merge and no file format: the biases are the model's own, saved with it. PEFT
has no BitFit.
"""

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from labkit.tuning import adapted
from labkit.tuning.targets import matches, placement, target_names

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True, slots=True)
class BitfitConfig:
    """Which biases train.

    Args:
        target_modules: whose biases, as `LoraConfig`; None for every bias, those of norms included.
        add: give targeted linear layers without a bias one of zeros. Llama's layers have none.
            Norm gains are no biases and stay frozen: training those is another method
            (arXiv 2312.11420).
    """

    target_modules: tuple[str, ...] | str | None = None
    add: bool = False

    def __post_init__(self) -> None:
        if self.target_modules is not None and not self.target_modules:
            raise ValueError("target_modules is empty; name layers, or give None for every bias")
        if self.add and self.target_modules is None:
            raise ValueError('add=True needs target_modules; "all-linear" is the usual one')


def apply(model: Model, config: BitfitConfig) -> Model:
    """Freeze all but the biases the config names, in place; add those it asks for.

    A zero bias leaves the outputs as they were. O weights train in each layer.

    Paper: arXiv 2106.10199, section 3.

    Args:
        model: any module.
        config: which biases.

    Returns:
        The same model.

    Raises:
        ValueError: the model has no such bias, or adapters. It is then unchanged.
    """
    adapted.refuse_adapted(model)
    targets = config.target_modules
    if config.add and targets is not None:
        names = target_names(model, targets)
        bare = [name for name in names if getattr(model.get_submodule(name), "bias", None) is None]
    else:
        bare = []
    biases = [name for name, _ in model.named_parameters() if _is_bias(model, name, config)]
    if not (biases or bare):
        raise ValueError(
            f"no bias matches target_modules={targets!r}: Llama-shaped models have none; "
            'BitfitConfig(target_modules="all-linear", add=True) gives linear layers zero biases'
        )
    for name in bare:
        _add_zero_bias(model.get_submodule(name))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_is_bias(model, name, config))
    return model


def _is_bias(model: nn.Module, name: str, config: BitfitConfig) -> bool:
    parent, _, leaf = name.rpartition(".")
    if leaf != "bias":
        return False
    return config.target_modules is None or matches(model, parent, config.target_modules)


def _add_zero_bias(linear: nn.Module) -> None:
    device, dtype = placement(linear)
    width: int = linear.out_features  # type: ignore[assignment]
    linear.bias = nn.Parameter(torch.zeros(width, device=device, dtype=dtype))
