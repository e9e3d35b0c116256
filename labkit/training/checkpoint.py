"""Checkpoints that are either whole or refused: safetensors with a digest of every byte."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from labkit.runtime.cache import atomic_path
from labkit.runtime.errors import CorruptFileError


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Tensors by name, and what else must be known, as JSON values."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def save(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write one checkpoint under a temporary name and rename it onto ``path``.

    A process that dies while writing leaves the previous checkpoint as it was.

    Args:
        path: File to create or replace.
        tensors: By name; no two may share memory.
        metadata: JSON values.
    """
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(dict(metadata), sort_keys=True)
    header = {"metadata": text, "sha256": _digest(contiguous, text)}
    with atomic_path(Path(path)) as temporary:
        save_file(contiguous, temporary, metadata=header)
        _flush_to_disk(temporary)


def load(path: Path | str) -> Checkpoint:
    """Read a checkpoint back, having verified every byte of it.

    Args:
        path: File that :func:`save` wrote.

    Returns:
        The tensors on the CPU, and the metadata.

    Raises:
        FileNotFoundError: If there is no such file.
        CorruptFileError: If it is truncated, altered or something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{path} is no whole checkpoint: {error}") from error
    text = header.get("metadata", "")
    if header.get("sha256") != _digest(tensors, text):
        raise CorruptFileError(f"{path} was altered after it was written: its digest differs")
    return Checkpoint(tensors=tensors, metadata=json.loads(text))


def training_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Everything a step changes: trainable parameters, buffers, the optimizer's moments.

    Frozen parameters are left out, so a LoRA run's checkpoint holds the adapter only.

    Args:
        model: Whose trainable parameters the optimizer holds.
        optimizer: Its state is stored by parameter name, not by position.

    Returns:
        Live tensors (not copies) under ``model.<name>`` and ``optimizer.<name>.<slot>``.
    """
    state = {f"model.{name}": tensor for name, tensor in _moving(model).items()}
    for name, parameter in model.named_parameters():
        for slot, value in optimizer.state.get(parameter, {}).items():
            state[f"optimizer.{name}.{slot}"] = value
    return state


def restore_training_state(
    model: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what :func:`training_state` gave, in place; nothing is changed if it does not fit.

    Args:
        model: Of the same trainable parameters.
        optimizer: Over those parameters.
        tensors: A checkpoint's.

    Raises:
        ValueError: If names or shapes differ.
    """
    restore_weights(model, tensors)
    for name, parameter in model.named_parameters():
        prefix = f"optimizer.{name}."
        slots = {
            key.removeprefix(prefix): value.to(parameter.device) if value.dim() else value
            for key, value in tensors.items()
            if key.startswith(prefix)
        }
        if slots:
            optimizer.state[parameter] = slots


@torch.no_grad()
def restore_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """The part of :func:`restore_training_state` that needs no optimizer.

    Raises:
        ValueError: If names or shapes differ; nothing is changed then.
    """
    moving = _moving(model)
    stored = {
        name.removeprefix("model."): tensor
        for name, tensor in tensors.items()
        if name.startswith("model.")
    }
    _check_fit(moving, stored)
    for name, tensor in moving.items():
        tensor.copy_(stored[name])


def _moving(model: nn.Module) -> dict[str, Tensor]:
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    stored = model.state_dict(keep_vars=True)
    buffers = {n: b for n, b in model.named_buffers() if n in stored}
    return {**parameters, **buffers}


def _check_fit(moving: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    if names := moving.keys() ^ stored.keys():
        raise ValueError(
            f"the checkpoint is of another model: only one of the two has {sorted(names)[:3]}"
        )
    for name, tensor in moving.items():
        if tensor.shape != stored[name].shape:
            raise ValueError(
                f"the checkpoint is of another model: {name} is {tuple(stored[name].shape)} "
                f"there and {tuple(tensor.shape)} here"
            )


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _flush_to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
