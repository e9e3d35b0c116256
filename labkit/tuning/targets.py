"""Which linear layers of a model a tuning method adapts, and how one is put in another's place."""

import re
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

ALL_LINEAR = "all-linear"
HEAD_NAME = "lm_head"


@runtime_checkable
class PackedLinear(Protocol):
    """A frozen linear layer whose weight is stored packed; `dtype` is that of its products."""

    in_features: int
    out_features: int
    bias: nn.Parameter | None
    dtype: torch.dtype
    device: torch.device

    def dequantize(self) -> Tensor:
        """The weight, (O, I)."""


AnyLinear = nn.Linear | PackedLinear


def target_names(model: nn.Module, targets: tuple[str, ...] | str) -> list[str]:
    """Paths of the linear layers that the targets name, in the model's order.

    Args:
        model: any module.
        targets: names, each a whole path or its last parts; or one string: "all-linear" (every
            linear layer but the output head) or a regular expression for the whole path.

    Raises:
        ValueError: nothing matches; the message lists the names there are.
    """
    linears = [name for name, module in model.named_modules() if name and is_linear(module)]
    names = [name for name in linears if matches(model, name, targets)]
    if not names:
        leaves = sorted({name.rpartition(".")[2] for name in linears})
        raise ValueError(
            f"target_modules={targets!r} matches no linear layer; "
            f"the model's are named {', '.join(leaves) or '(it has none)'}"
        )
    return names


def is_linear(module: nn.Module) -> bool:
    """Whether the module is an `nn.Linear` or a packed one."""
    return isinstance(module, AnyLinear)


def placement(base: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a linear layer lies, and the dtype its adapter should have."""
    if not isinstance(base, nn.Linear):
        packed = cast(PackedLinear, base)
        return packed.device, packed.dtype
    weight = base.weight
    return weight.device, weight.dtype if weight.is_floating_point() else torch.float32


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module at a path of the model."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def matches(model: nn.Module, name: str, targets: tuple[str, ...] | str) -> bool:
    """Whether the targets, as `target_names` reads them, name the module at a path."""
    if targets == ALL_LINEAR:
        head = getattr(model, "get_output_embeddings", lambda: None)()
        return name.rpartition(".")[2] != HEAD_NAME and model.get_submodule(name) is not head
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)
