"""What lab 05's exercises are called with, and how a drive reads what came back."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grader.checks.explain import ContractError


def what(value: object) -> str:
    """How a value reads in a sentence: its type, and a tensor's shape and dtype."""
    if not isinstance(value, Tensor):
        return "nothing" if value is None else f"an object of type {type(value).__name__}"
    return f"a tensor of shape {tuple(value.shape)}, {dtype_name(value)}"


def dtype_name(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def parts(result: Any, *names: str) -> tuple[Any, ...]:
    """The parts of a returned tuple; a sentence instead of an unpacking error."""
    if type(result) is not tuple or len(result) != len(names):
        raise ContractError(f"expected a tuple ({', '.join(names)}), got {what(result)}")
    return result


def tensor(value: Any, name: str, shape: Sequence[int]) -> Tensor:
    if not isinstance(value, Tensor) or tuple(value.shape) != tuple(shape):
        raise ContractError(f"{name}: expected a tensor of shape {tuple(shape)}, got {what(value)}")
    return value


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A layer of copies, without drawing anything."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.clone())
    if bias is not None:
        layer.register_parameter("bias", nn.Parameter(bias.clone()))
    return layer


class Decoder:
    """One layer of causal attention over embeddings, which remembers what it was called with."""

    def __init__(self, places: Tensor, head: Tensor) -> None:
        self._places, self._head = places, head
        self.met: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, embeddings: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Map (B, S, D), (B, S) bool and (B, S) whole numbers to logits (B, S, V)."""
        if not isinstance(embeddings, Tensor) or embeddings.ndim != 3:
            raise ContractError(f"decoder: expected embeddings (B, S, D), got {what(embeddings)}")
        B, S, D = embeddings.shape
        for name, value, dtype in (
            ("mask", mask, torch.bool),
            ("positions", positions, torch.int64),
        ):
            if tensor(value, f"decoder's {name}", (B, S)).dtype is not dtype:
                raise ContractError(f"decoder's {name}: expected {dtype}, got {what(value)}")
        if not 0 <= int(positions.min()) <= int(positions.max()) < len(self._places):
            raise ContractError(f"decoder: positions must lie in [0, {len(self._places)})")
        self.met.append((embeddings.detach(), mask, positions))
        h = embeddings.float() + self._places[positions]
        seen = torch.ones(S, S, dtype=torch.bool).tril() & mask[:, None, :]
        scores = (h @ h.mT / math.sqrt(D)).masked_fill(~seen, -math.inf)
        # A place that sees nothing gets nan, as in many a real model.
        return (h + scores.softmax(-1) @ h) @ self._head


class Spans(TorchDispatchMode):
    """Notes whether an operation made a tensor with an axis of this length."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length
        self.met = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            self.met |= isinstance(value, Tensor) and self._length in value.shape
        return made
