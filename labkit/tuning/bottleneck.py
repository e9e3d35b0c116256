"""Bottleneck adapters: a narrow two-layer network beside or after a frozen module.

Houlsby's, Pfeiffer's and He's parallel adapters are three places for the same network. Between its
layers stands an activation, so that no merge exists: it costs time at inference. PEFT has none of
them, so neither has its file format; the adapter's weights are in the model's state dict.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from labkit.tuning import adapted
from labkit.tuning.adapted import Addition
from labkit.tuning.targets import is_linear, matches, placement, replace

Model = TypeVar("Model", bound=nn.Module)
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class BottleneckConfig:
    """Where adapters go, and their shape; see `houlsby`, `pfeiffer` and `parallel`.

    Args:
        width: R, of the bottleneck.
        form: "sequential", on the output of a linear layer; or "parallel", beside any module that
            takes one tensor and holds linear layers, on its input.
        target_modules: names, each a whole path or its last parts, or a regular expression.
        scaling: of the adapter's output.
        activation: "relu", "gelu" or "silu".
    """

    width: int = 64
    form: str = "sequential"
    target_modules: tuple[str, ...] | str = ("o_proj", "down_proj")
    scaling: float | int = 1.0
    activation: str = "relu"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width={self.width} must be at least 1; 8 to 512 is usual")
        if self.form not in ("sequential", "parallel"):
            raise ValueError(f"form={self.form!r} must be 'sequential' or 'parallel'")
        if not self.target_modules:
            raise ValueError("target_modules is empty; name modules")
        if not (math.isfinite(self.scaling) and self.scaling > 0):
            raise ValueError(f"scaling={self.scaling} must be a positive number")
        if self.activation not in _ACTIVATIONS:
            known = ", ".join(_ACTIVATIONS)
            raise ValueError(f"activation={self.activation!r} must be one of {known}")


def houlsby(width: int) -> BottleneckConfig:
    """Adapters after attention and after the feed-forward network (arXiv 1902.00751)."""
    return BottleneckConfig(width=width)


def pfeiffer(width: int) -> BottleneckConfig:
    """Adapters after the feed-forward network only (arXiv 2005.00247).

    Differs: the paper adds and normalises once more around it, as post-norm BERT asks for.
    """
    return BottleneckConfig(width=width, target_modules=("down_proj",))


def parallel(width: int, scaling: float = 4.0) -> BottleneckConfig:
    """Scaled adapters beside the feed-forward network (arXiv 2110.04366)."""
    return BottleneckConfig(width=width, form="parallel", target_modules=("mlp",), scaling=scaling)


class Bottleneck(Addition):
    """y + s * W_up f(W_down z + b_down) + s * b_up, where y = base(x) and z is y or x.

    W_up and b_up are zero at the start, so that nothing changes to the bit. R (I + O) + R + O
    weights train; z is O wide when sequential, I when parallel.

    Paper: arXiv 1902.00751, section 2; parallel: arXiv 2110.04366, section 4.
    Differs: Houlsby draws W_up near zero instead.

    Args:
        base: the frozen module; for "sequential" a linear layer.
        config: the adapter.
        generator: draws W_down on the CPU; by default a fresh one with seed 0.
        dtype: of the adapter, by default the base's.
    """

    method = "bottleneck"

    def __init__(
        self,
        base: nn.Module,
        config: BottleneckConfig,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        linears = [module for module in base.modules() if is_linear(module)]
        inputs: int = linears[0].in_features  # type: ignore[assignment]
        outputs: int = linears[-1].out_features  # type: ignore[assignment]
        self.base_layer = base
        self.is_parallel = config.form == "parallel"
        self.scaling = float(config.scaling)
        self.activation = _ACTIVATIONS[config.activation]
        self.enabled = True
        width = inputs if self.is_parallel else outputs
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        device, base_dtype = placement(linears[-1])
        self.down = nn.Linear(width, config.width, device="meta").to_empty(device="cpu")
        self.up = nn.Linear(config.width, outputs, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            bound = 1 / math.sqrt(width)
            self.down.weight.uniform_(-bound, bound, generator=generator)
            for silent in (self.down.bias, self.up.weight, self.up.bias):
                silent.zero_()
        for layer in (self.down, self.up):
            layer.to(device, dtype or base_dtype)

    def forward(self, x: Float[Tensor, "*B T I"]) -> Float[Tensor, "*B T O"]:
        y: Tensor = self.base_layer(x)
        if not self.enabled:
            return y
        return y + self.change(x if self.is_parallel else y).to(y.dtype)

    def change(self, z: Float[Tensor, "*B T Z"]) -> Float[Tensor, "*B T O"]:
        """What the adapter adds."""
        hidden = self.activation(self.down(z.to(self.down.weight.dtype)))
        out: Tensor = self.up(hidden) * self.scaling
        return out


def apply(
    model: Model,
    config: BottleneckConfig,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> Model:
    """Freeze the model and put an adapter at every module the config targets, in place.

    Args:
        model: any module with linear layers.
        config: where, and of what shape.
        generator: draws every W_down; by default a fresh one with seed 0.
        dtype: of the adapters, by default that of each base module.

    Returns:
        The same model.

    Raises:
        ValueError: nothing matches, or the model has adapters already. It is then unchanged.
    """
    adapted.refuse_adapted(model)
    generator = torch.Generator().manual_seed(0) if generator is None else generator

    def make(_: str, base: nn.Module) -> Bottleneck:
        return Bottleneck(base, config, generator=generator, dtype=dtype)

    adapted.wrap(model, target_names(model, config), make)
    return model


def target_names(model: nn.Module, config: BottleneckConfig) -> list[str]:
    """Paths of the modules that `apply` would adapt.

    Raises:
        ValueError: nothing matches.
    """
    sequential = config.form == "sequential"
    names = [
        name
        for name, module in model.named_modules()
        if name
        and matches(model, name, config.target_modules)
        and (is_linear(module) if sequential else any(map(is_linear, module.modules())))
    ]
    if not names:
        wanted = "linear layer" if sequential else "module with linear layers"
        raise ValueError(f"target_modules={config.target_modules!r} matches no {wanted}")
    return names


def layers(model: nn.Module) -> dict[str, Bottleneck]:
    """The model's adapters by path.

    Raises:
        ValueError: there are none.
    """
    found = {name: m for name, m in model.named_modules() if isinstance(m, Bottleneck)}
    if not found:
        raise ValueError("the model has no bottleneck adapters; call apply first")
    return found


def remove(model: Model) -> Model:
    """Drop the adapters and put the base modules back, in place."""
    for name, layer in layers(model).items():
        replace(model, name, layer.base_layer)
    return model
