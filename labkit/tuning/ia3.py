"""IA3: one trained factor for each output of a layer, or for each input of a feed-forward layer."""

from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labkit.tuning import adapted
from labkit.tuning.adapted import AdaptedLinear, wide
from labkit.tuning.targets import is_linear, matches, placement, target_names

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ia3Config:
    """Which layers to rescale.

    Args:
        target_modules: as `LoraConfig`: keys, values and the feed-forward's last layer by default.
        feedforward_modules: those among them whose input is rescaled instead of the output, named
            in the same way; may be empty.
    """

    target_modules: tuple[str, ...] | str = ("k_proj", "v_proj", "down_proj")
    feedforward_modules: tuple[str, ...] | str = ("down_proj",)

    def __post_init__(self) -> None:
        if not self.target_modules:
            raise ValueError("target_modules is empty; name layers")
        if isinstance(self.target_modules, str) or isinstance(self.feedforward_modules, str):
            return
        if unknown := set(self.feedforward_modules) - set(self.target_modules):
            raise ValueError(
                f"feedforward_modules names {', '.join(sorted(unknown))}, which target_modules "
                "does not: a feed-forward layer is a target whose input is rescaled"
            )


class Ia3Linear(AdaptedLinear):
    """y = l * base(x), or for a feed-forward layer y = base(l * x), with l = 1 at the start.

    O weights train, or I. Scaling the input of `down_proj` scales the activations inside the
    feed-forward network, as the paper has it.

    Paper: arXiv 2205.05638, section 3.3.

    Args:
        base: an `nn.Linear` or a packed linear.
        feedforward: scale the input.
        dtype: of l, by default the base's.

    Raises:
        ValueError: the base is no linear layer.
    """

    method = "IA3"

    def __init__(
        self, base: nn.Module, *, feedforward: bool = False, dtype: torch.dtype | None = None
    ) -> None:
        if not is_linear(base):
            raise ValueError(f"IA3 adapts linear layers, and this is a {type(base).__name__}")
        super().__init__(base)
        self.feedforward = feedforward
        shape = (1, self.in_features) if feedforward else (self.out_features, 1)
        device, base_dtype = placement(base)
        self.ia3_l = nn.Parameter(torch.ones(shape, device=device, dtype=dtype or base_dtype))

    def forward(self, x: Float[Tensor, "*B T I"]) -> Float[Tensor, "*B T O"]:
        if self.merged or not self.enabled:
            return cast(Tensor, self.base_layer(x))
        factors = self.ia3_l.flatten()
        if self.feedforward:
            return cast(Tensor, self.base_layer((x * factors).to(x.dtype)))
        y: Tensor = self.base_layer(x)
        return (y * factors).to(y.dtype)

    @torch.no_grad()
    def merged_weight(self) -> Float[Tensor, "O I"]:
        """l * W, over rows or (feed-forward) over columns; rounded once to W's dtype."""
        weight = self.base_weight()
        return (weight.to(wide(weight)) * self.ia3_l).to(weight.dtype)

    def merged_bias(self) -> Float[Tensor, " O"] | None:
        bias = super().merged_bias()
        if bias is None or self.feedforward:
            return bias
        return (bias.to(wide(bias)) * self.ia3_l.detach().flatten()).to(bias.dtype)


def apply(model: Model, config: Ia3Config, *, dtype: torch.dtype | None = None) -> Model:
    """Freeze the model and rescale every layer the config targets, in place.

    The outputs stay the same to the bit until the factors are trained.

    Args:
        model: any module with linear layers.
        config: what to rescale.
        dtype: of the factors, by default that of each base layer.

    Returns:
        The same model.

    Raises:
        ValueError: no layer matches, or the model has adapters already. It is then unchanged.
    """
    adapted.refuse_adapted(model)

    def make(name: str, base: nn.Module) -> Ia3Linear:
        feedforward = matches(model, name, config.feedforward_modules)
        return Ia3Linear(base, feedforward=feedforward, dtype=dtype)

    adapted.wrap(model, target_names(model, config.target_modules), make)
    return model


def layers(model: nn.Module) -> dict[str, Ia3Linear]:
    """The model's adapters by path.

    Raises:
        ValueError: there are none.
    """
    return adapted.layers(model, Ia3Linear)


def merge(model: Model) -> Model:
    """Put every factor into its layer's weight and bias; `unmerge` undoes it to the bit."""
    return adapted.merge(model, Ia3Linear)


def unmerge(model: Model) -> Model:
    """Undo `merge`. PEFT divides instead, which is not exact and fails at l = 0."""
    return adapted.unmerge(model, Ia3Linear)


def remove(model: Model) -> Model:
    """Drop the factors and put the base layers back, in place."""
    return adapted.remove(model, Ia3Linear)
