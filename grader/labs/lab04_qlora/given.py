"""What lab 04's exercises are given, and what watches memory meanwhile. Torch only."""

import gc
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Expand:
    """Makes the weight anew at every call, and counts them."""

    def __init__(self, weight: Tensor) -> None:
        self._weight, self.calls = weight, 0

    def __call__(self) -> Tensor:
        self.calls += 1
        return self._weight.clone()


class Made(TorchDispatchMode):
    """Notes every storage of at least so many bytes that an operation made."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__()
        self._num_bytes = num_bytes
        self._made: list[StorageWeakRef] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor) and value.untyped_storage().nbytes() >= self._num_bytes:
                self._made.append(StorageWeakRef(value.untyped_storage()))
        return made

    def alive(self) -> bool:
        """Whether one of them still is in memory."""
        return not all(map(is_gone, self._made))


def is_gone(storage: StorageWeakRef) -> bool:
    """Whether nothing holds a storage; what only a cycle holds is nothing."""
    if not storage.expired():
        gc.collect()
    return bool(storage.expired())


class SoftRounding:
    """Pulls numbers to multiples of a step; smooth, so that no rounding tips a number over."""

    def __init__(self, step: float) -> None:
        self._step, self.calls = step, 0

    def __call__(self, weight: Tensor) -> Tensor:
        self.calls += 1
        return weight - 0.14 * self._step * torch.sin(2 * torch.pi * weight / self._step)
