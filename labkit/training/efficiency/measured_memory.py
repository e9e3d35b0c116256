"""Bytes that a step really holds: what autograd saves, and every storage that is alive."""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class SavedTensors:
    """The distinct storages that were saved for a backward pass."""

    def __init__(self, apart: Iterable[Tensor]) -> None:
        self._apart = {tensor.untyped_storage()._cdata for tensor in apart}
        # Kept, so that no address is given to another storage while we count.
        self._storages: dict[int, torch.UntypedStorage] = {}

    def save(self, tensor: Tensor) -> Tensor:
        """Count a tensor's storage, once."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._apart:
            self._storages[storage._cdata] = storage
        return tensor

    @property
    def bytes(self) -> int:
        """Of all storages together, each counted once."""
        return sum(storage.nbytes() for storage in self._storages.values())


@contextmanager
def saved_for_backward(apart: Iterable[Tensor] = ()) -> Iterator[SavedTensors]:
    """Counts what autograd saves in the block: `with saved_for_backward(...) as saved: ...`.

    Args:
        apart: Tensors that are there anyway, such as parameters; their storages do not count.
    """
    saved = SavedTensors(apart)
    with torch.autograd.graph.saved_tensors_hooks(saved.save, lambda tensor: tensor):
        yield saved


class AllocationTracker(TorchDispatchMode):
    """Bytes of living tensor storages: `live_bytes` now, `peak_bytes` at most so far.

    Counts what operations return while the mode is on, forward and backward, until it is freed.
    What comes and goes inside one operation is not seen, nor are two tensors of one storage two.
    It looks at tensors, not at the process: the result is the same on every machine.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = 0
        self._alive: dict[int, int] = {}

    def watch(self, tensors: Iterable[Any]) -> None:
        """Count tensors that are there already: parameters, gradients, optimizer state."""
        for value in tensors:
            if isinstance(value, Tensor):
                self._meet(value.untyped_storage())

    def reset_peak(self) -> None:
        """Forget the peak: from here on it is what lives now, or more."""
        self.peak_bytes = self.live_bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.watch(tree_leaves(made))
        return made

    def _meet(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._alive:
            return
        self._alive[key] = storage.nbytes()
        self.live_bytes += self._alive[key]
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.live_bytes -= self._alive.pop(key)
