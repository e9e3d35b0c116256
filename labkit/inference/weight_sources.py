"""Where weights lie that are read when their turn comes: a safetensors file, or CPU memory."""

import json
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from labkit.runtime.errors import CorruptFileError

DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I32": torch.int32,
    "I64": torch.int64,
    "BOOL": torch.bool,
}


@runtime_checkable
class WeightSource(Protocol):
    """Weights by their full names, such as "model.layers.3.mlp.up_proj.weight"."""

    def check(self, wanted: Mapping[str, Tensor]) -> None:
        """Raise ValueError unless these are there, in their shapes and types."""
        ...

    def read(self, into: Mapping[str, Tensor]) -> None:
        """Fill tensors with the weights of those names."""
        ...


@dataclass(frozen=True, slots=True)
class _Entry:
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int


class FileWeights:
    """A safetensors file, each tensor read by its offset straight to where it is wanted.

    It is not mapped into memory: then what was read would count as the process's own until the
    system takes it back, and a file that is cut short would kill the process instead of raising.

    Args:
        path: of the file, such as a model folder's `model.safetensors`.

    Raises:
        CorruptFileError: it is no whole safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with safe_open(path, framework="pt"):
                pass  # that its header is right and the file as long as it says
        except SafetensorError as error:
            raise CorruptFileError(f"{path}: {error}") from error
        self._file = path.open("rb", buffering=0)
        weakref.finalize(self, self._file.close)
        size = int.from_bytes(self._file.read(8), "little")
        header = json.loads(self._file.read(size))
        self._entries = {
            name: _Entry(
                DTYPES[entry["dtype"]], tuple(entry["shape"]), 8 + size + entry["data_offsets"][0]
            )
            for name, entry in header.items()
            if name != "__metadata__" and entry["dtype"] in DTYPES
        }

    def check(self, wanted: Mapping[str, Tensor]) -> None:
        for name, tensor in wanted.items():
            entry = self._entries.get(name)
            found = None if entry is None else (entry.dtype, entry.shape)
            _compare(name, tensor, found, str(self._path))

    def read(self, into: Mapping[str, Tensor]) -> None:
        """Fill tensors.

        Raises:
            CorruptFileError: the file has become shorter.
        """
        for name, tensor in into.items():
            on_cpu = (
                tensor if tensor.device.type == "cpu" else torch.empty_like(tensor, device="cpu")
            )
            self._fill(name, on_cpu)
            if on_cpu is not tensor:
                tensor.copy_(on_cpu)

    def _fill(self, name: str, tensor: Tensor) -> None:
        room = tensor.reshape(-1).view(torch.uint8).numpy().data
        begin, done = self._entries[name].begin, 0
        while done < len(room):  # one call reads 2 GiB at most
            got = os.preadv(self._file.fileno(), [room[done:]], begin + done)
            if not got:
                raise CorruptFileError(f"{self._path} ends within {name}")
            done += got


class MemoryWeights:
    """Tensors in CPU memory, for a model that runs on a GPU.

    Args:
        state: such as a model's `state_dict()`.
        pin: whether to copy them into page-locked memory, from which a GPU reads on its own.
    """

    def __init__(self, state: Mapping[str, Tensor], *, pin: bool = False) -> None:
        self._state = {name: t.pin_memory() if pin else t for name, t in state.items()}

    def check(self, wanted: Mapping[str, Tensor]) -> None:
        for name, tensor in wanted.items():
            own = self._state.get(name)
            found = None if own is None else (own.dtype, tuple(own.shape))
            _compare(name, tensor, found, "the weights in memory")

    def read(self, into: Mapping[str, Tensor]) -> None:
        for name, tensor in into.items():
            tensor.copy_(self._state[name], non_blocking=True)


def _compare(
    name: str, tensor: Tensor, found: tuple[torch.dtype, tuple[int, ...]] | None, where: str
) -> None:
    if found is None:
        raise ValueError(f"{where}: no {name}")
    if found != (tensor.dtype, tuple(tensor.shape)):
        raise ValueError(
            f"{where}: {name} is {found[0]} {found[1]}, the model wants {tensor.dtype} "
            f"{tuple(tensor.shape)}: convert one of them"
        )
