"""Linear layers under adapters: what every method that wraps them shares.

The layer's base class, and the steps on a whole model: put in, merge, take out, switch off.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import ClassVar, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labkit.tuning.targets import AnyLinear, PackedLinear, replace

Model = TypeVar("Model", bound=nn.Module)
Layer = TypeVar("Layer", bound="AdaptedLinear")


class Addition(nn.Module):
    """What a method adds to a model; `method` is its name in messages."""

    method: ClassVar[str]


class AdaptedLinear(Addition, ABC):
    """A linear layer, named `base_layer` as in PEFT's files, and what a method adds to it.

    Args:
        base: an `nn.Linear` or a packed linear; it is frozen by `wrap`, not here.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        linear = cast(AnyLinear, base)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.base_layer = base
        self.enabled = True
        self._kept: list[tuple[nn.Parameter, nn.Parameter | None]] = []  # a list: not registered

    @abstractmethod
    def merged_weight(self) -> Float[Tensor, "O I"]:
        """The weight of the one linear layer that computes the same."""

    def merged_bias(self) -> Float[Tensor, " O"] | None:
        """Its bias, by default the base's."""
        bias = cast("Tensor | None", self.base_layer.bias)
        return None if bias is None else bias.detach()

    def base_weight(self) -> Float[Tensor, "O I"]:
        """The base's weight, expanded if it is packed."""
        base = self.base_layer
        if isinstance(base, nn.Linear):
            return base.weight
        return cast(PackedLinear, base).dequantize()

    @property
    def merged(self) -> bool:
        """Whether the base's weight now holds the adapter."""
        return bool(self._kept)

    def merge(self) -> None:
        """Put the adapter into the base's weight and bias.

        The old weight is kept, which doubles this layer's memory until `unmerge`: computing it back
        would not give the same bits. A weight tied to another module stays as it is there.

        Raises:
            ValueError: merged already, or the base is packed.
        """
        if self.merged:
            raise ValueError("this adapter is merged already; call unmerge first")
        base = self.base_layer
        if not (isinstance(base, nn.Linear) and base.weight.is_floating_point()):
            raise ValueError(
                f"a {type(base).__name__} cannot absorb an adapter without rounding it away; "
                "use merge_and_unload, which makes dense layers"
            )
        weight = nn.Parameter(self.merged_weight(), requires_grad=False)
        old_bias, new_bias = cast("nn.Parameter | None", base.bias), self.merged_bias()
        self._kept.append((cast(nn.Parameter, base.weight), old_bias))
        base.weight = weight
        if old_bias is not None and new_bias is not None:
            base.bias = nn.Parameter(new_bias, requires_grad=old_bias.requires_grad)

    def unmerge(self) -> None:
        """Put back the very weight and bias that `merge` kept: exact to the bit.

        Raises:
            ValueError: the adapter is not merged.
        """
        if not self.merged:
            raise ValueError("this adapter is not merged; call merge first")
        base = cast(nn.Linear, self.base_layer)
        weight, bias = self._kept.pop()
        weight.data = weight.data.to(base.weight.device, base.weight.dtype)
        base.weight = weight
        if bias is not None:
            bias.data = bias.data.to(base.weight.device, base.weight.dtype)
            base.bias = bias


def refuse_adapted(model: nn.Module) -> None:
    """Refuse a model under adapters.

    Raises:
        ValueError: with their method.
    """
    for module in model.modules():
        if isinstance(module, Addition):
            raise ValueError(
                f"the model has {module.method} adapters already; call remove or merge_and_unload"
            )


def wrap(
    model: nn.Module, names: Iterable[str], make: Callable[[str, nn.Module], nn.Module]
) -> None:
    """Freeze the model and put `make(name, module)` in each named module's place."""
    model.requires_grad_(False)
    for name in names:
        base = model.get_submodule(name)
        replace(model, name, make(name, base).train(base.training))


def layers(model: nn.Module, kind: type[Layer]) -> dict[str, Layer]:
    """The model's adapters of a kind, by path.

    Raises:
        ValueError: there are none.
    """
    found = {name: m for name, m in model.named_modules() if isinstance(m, kind)}
    if not found:
        raise ValueError(f"the model has no {kind.method} adapters; call apply first")
    return found


def merge(model: Model, kind: type[AdaptedLinear]) -> Model:
    """Merge every adapter of a kind into its layer; see `AdaptedLinear.merge`."""
    adapters = layers(model, kind)
    if any(layer.merged for layer in adapters.values()):
        raise ValueError("the model's adapters are merged already; call unmerge first")
    for layer in adapters.values():
        layer.merge()
    return model


def unmerge(model: Model, kind: type[AdaptedLinear]) -> Model:
    """Undo `merge`, to the bit; see `AdaptedLinear.unmerge`."""
    adapters = layers(model, kind)
    if not all(layer.merged for layer in adapters.values()):
        raise ValueError("the model's adapters are not merged; call merge first")
    for layer in adapters.values():
        layer.unmerge()
    return model


def remove(model: Model, kind: type[AdaptedLinear]) -> Model:
    """Drop the adapters and put the base layers back, in place. Trained biases stay."""
    for name, layer in layers(model, kind).items():
        if layer.merged:
            layer.unmerge()
        replace(model, name, layer.base_layer)
    return model


def merge_and_unload(model: Model, kind: type[AdaptedLinear]) -> Model:
    """Replace every adapter by a plain `nn.Linear` that computes the same, in place.

    Packed layers under an adapter become dense ones.
    """
    for name, layer in layers(model, kind).items():
        if layer.merged:
            layer.unmerge()
        weight, bias = layer.merged_weight(), layer.merged_bias()
        dense = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        dense.weight = nn.Parameter(weight, requires_grad=False)
        dense.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)  # type: ignore[assignment]
        replace(model, name, dense.train(layer.training))
    return model


@contextmanager
def disabled(model: Model, kind: type[AdaptedLinear]) -> Iterator[Model]:
    """Within the context the adapters are off. Trained biases stay in effect, as in PEFT.

    Raises:
        ValueError: the adapters are merged, so they cannot be left out.
    """
    adapters = list(layers(model, kind).values())
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


def wide(weight: Tensor) -> torch.dtype:
    """The dtype in which sums with a weight are made before they are rounded: float32 at least."""
    return torch.promote_types(weight.dtype, torch.float32)
