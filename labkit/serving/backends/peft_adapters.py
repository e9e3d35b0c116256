"""LoRA adapters on a transformers model, through peft: switched on before each text's pass."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from labkit.inference.adapters.errors import (
    InvalidAdapterError,
    MismatchedAdapterError,
    UnsupportedAdapterError,
)
from labkit.inference.adapters.header import read_header
from labkit.inference.adapters.roster import Entry, Roster
from labkit.runtime.errors import MissingDependencyError
from labkit.serving.backends.adapter_files_check import MAX_BYTES, WEIGHTS, check_files

_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


class PeftAdapters:
    """Versions and names as in our own bank; the weights are peft's.

    Args:
        model: A transformers model; peft replaces its linear layers in place.
        max_adapters: Most that are mounted at a time.
        max_rank: Highest rank taken.
    """

    def __init__(self, model: nn.Module, *, max_adapters: int, max_rank: int) -> None:
        self.roster = Roster(max_adapters)
        self._model, self._max_rank = model, max_rank
        self._peft: Any = None
        self._lock = threading.RLock()  # modules change while nobody runs them
        self._loaded: set[str] = set()

    def mount(self, name: str, folder: Path) -> None:
        """Check an adapter and load it; `name` means it from then on.

        Raises:
            AdapterError: It is refused.
            MissingDependencyError: peft is not installed.
        """
        rank = check(folder, self._model, self._max_rank)
        entry = self.roster.reserve(name, rank, frozenset(), keep_older=False)
        try:
            with self._lock:
                self._purge()
                self._load(_key(entry), folder)
        except BaseException:
            self.roster.cancel(entry)
            raise
        self.roster.publish(entry, keep_older=False)

    @contextmanager
    def using(self, slot: int) -> Iterator[None]:
        """Let the model be the base (slot 0) or the slot's adapter while the block runs."""
        with self._lock:
            if self._peft is None:
                yield
            elif slot == 0:
                with self._peft.disable_adapter():
                    yield
            else:
                self._peft.set_adapter(_key(self.roster.at(slot)))
                yield

    def _load(self, key: str, folder: Path) -> None:
        try:
            from peft import PeftModel
        except ImportError as error:
            raise MissingDependencyError(
                "adapters on transformers need peft: pip install 'llm-engineering-lab[peers]'"
            ) from error
        if self._peft is None:
            self._peft = PeftModel.from_pretrained(self._model, folder, adapter_name=key)
        else:
            self._peft.load_adapter(folder, adapter_name=key)
        self._peft.eval()
        self._loaded.add(key)

    def _purge(self) -> None:
        """Drop weights whose last request has gone; peft keeps one adapter at least."""
        known = {_key(entry) for entry in self.roster.entries}
        for key in list(self._loaded - known)[: max(0, len(self._loaded) - 1)]:
            self._peft.delete_adapter(key)
            self._loaded.remove(key)


def check(folder: Path, model: nn.Module, max_rank: int) -> int:
    """The rank of an adapter whose file is sound and fits the model.

    Raises:
        AdapterError: It does not fit, for the reason that its class says.
    """
    rank = check_files(folder, max_rank)
    path = folder / WEIGHTS
    for name, shape in read_header(path, max_bytes=MAX_BYTES).shapes.items():
        if _fitting_rank(name, shape, model, folder) != rank:
            raise MismatchedAdapterError(f"{folder}: {name} of {shape} is not of rank {rank}")
    try:
        finite = all(bool(torch.isfinite(tensor).all()) for tensor in load_file(path).values())
    except SafetensorError as error:
        raise InvalidAdapterError(f"{path} is damaged: {error}") from error
    if not finite:
        raise InvalidAdapterError(f"{path} holds NaN or infinite weights")
    return rank


def _fitting_rank(name: str, shape: tuple[int, ...], model: nn.Module, folder: Path) -> int:
    suffix = _A if name.endswith(_A) else _B
    if not (name.startswith(_PREFIX) and name.endswith(suffix) and len(shape) == 2):
        raise UnsupportedAdapterError(f"{folder} holds {name}, and only LoRA on linear layers goes")
    try:
        layer: Any = model.get_submodule(name[len(_PREFIX) : -len(suffix)])
        rank, width = shape if suffix == _A else shape[::-1]
        expected = layer.in_features if suffix == _A else layer.out_features
    except AttributeError as error:
        raise MismatchedAdapterError(f"{folder}: the model has no place for {name}") from error
    if width != expected:
        raise MismatchedAdapterError(f"{folder}: {name} of {shape} meets a layer of {expected}")
    return rank


def _key(entry: Entry) -> str:
    """A name for peft that no other adapter ever has."""
    return f"uid{entry.uid}"
