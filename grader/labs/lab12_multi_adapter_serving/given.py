"""What lab 12's exercises are called with, and how a drive reads what came back."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grader.checks.explain import ContractError

aten = torch.ops.aten
# Of each product's arguments: where its two factors stand.
PRODUCTS = {
    aten.mm.default: (0, 1),
    aten.bmm.default: (0, 1),
    aten.mv.default: (0, 1),
    aten.dot.default: (0, 1),
    aten.addmm.default: (1, 2),
    aten.addmm_.default: (1, 2),
    aten.addmv.default: (1, 2),
    aten.baddbmm.default: (1, 2),
    aten.baddbmm_.default: (1, 2),
}


class Work(TorchDispatchMode):
    """Counts matrix products and their multiplications, and finds the largest tensor made.

    Attributes:
        products: How many there were.
        multiplications: In all of them together.
        largest: Numbers in the largest tensor that any operation returned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.products = self.multiplications = self.largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in PRODUCTS:
            left, right = (args[place] for place in PRODUCTS[func])
            self.products += 1
            self.multiplications += left.numel() * (right.shape[-1] if right.ndim > 1 else 1)
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        self.largest = max([self.largest, *(math.prod(x.shape) for x in made)])
        return result


def parts(result: Any, *names: str) -> tuple[Any, ...]:
    """The parts of a returned tuple; a sentence instead of an unpacking error."""
    if type(result) is not tuple or len(result) != len(names):
        wanted, kind = ", ".join(names), type(result).__name__
        raise ContractError(f"expected a tuple ({wanted}), got an object of type {kind}")
    return result


def tensor(value: Any, name: str, shape: Sequence[int]) -> Tensor:
    """A tensor of this shape; a sentence instead of what its use would raise."""
    if not isinstance(value, Tensor) or tuple(value.shape) != tuple(shape):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ContractError(f"{name}: expected a tensor of shape {tuple(shape)}, got {got}")
    return value


def whole(value: Any, name: str) -> int:
    """A whole number, as an `int` and nothing else."""
    if type(value) is not int:
        raise ContractError(
            f"{name}: expected an int, got an object of type {type(value).__name__}"
        )
    return value


def said(call: Callable[[], Any]) -> str:
    """What a call returned, or the name of what it raised."""
    try:
        value = call()
    except NotImplementedError:
        raise
    except Exception as error:
        return type(error).__name__
    if type(value) in (bool, int, str, type(None)):
        return str(value)
    return f"an object of type {type(value).__name__}"


class Service:
    """What lab 12's endpoint is written over: adapters without weights, and counted requests.

    Attributes:
        running: How many requests are counted on each uid now.
    """

    def __init__(self, live: dict[str, int], draining: list[str], room: int) -> None:
        self._live, self._draining, self._room = dict(live), list(draining), room
        self.running: dict[int, int] = {}

    def names(self) -> list[str]:
        """Live versions."""
        return sorted(name for name in self._live if "@" in name)

    def draining(self) -> list[str]:
        """Versions that only run to their end."""
        return list(self._draining)

    def load(self, name: str, path: str) -> str:
        """Mount what is at a path; the version's name."""
        if path.startswith("bad/"):
            raise ValueError(f"{path} is no adapter of this model")
        if self._room == 0:
            raise OverflowError("all adapters have requests")
        version, uid = f"{name}@v7", 100 + self._room
        self._room -= 1
        self._live |= {name: uid, version: uid}
        return version

    def unmount(self, name: str) -> bool:
        """Whether it went at once; KeyError if nothing live has the name."""
        uid = self._live[name]
        self._live = {known: of for known, of in self._live.items() if of != uid}
        return uid % 2 == 0

    def acquire(self, name: str) -> int:
        """Count a request in; KeyError if nothing live has the name."""
        uid = 0 if name == "__base__" else self._live[name]
        self.running[uid] = self.running.get(uid, 0) + 1
        return uid

    def release(self, uid: int) -> None:
        """Count a request out."""
        if not self.running.get(uid):
            raise ContractError(f"release({uid}) though no request is counted on it")
        self.running[uid] -= 1

    def generate(self, uid: int, prompt: str, max_tokens: int) -> Iterator[str]:
        """Pieces of text, at most `max_tokens`; four unless the prompt says otherwise."""
        if not self.running.get(uid):
            raise ContractError("generate before acquire, or after release")
        for n in range(min(max_tokens, 4)):
            if prompt.startswith(f"crash {n}"):
                raise RuntimeError("the model crashed")
            yield f"{prompt[:5]}{uid}.{n} "
