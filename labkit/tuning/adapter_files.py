"""Adapters in PEFT's file format, in both directions.

A folder with `adapter_config.json` and `adapter_model.safetensors`, whose keys are
`base_model.model.<path>.lora_A.weight` and the like; `adapter_formats` has each method's part.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from labkit.runtime.cache import atomic_path
from labkit.runtime.errors import CorruptFileError
from labkit.tuning import adapter_formats
from labkit.tuning.adapter_formats import AdapterConfig
from labkit.tuning.file_format import PREFIX, PROMPT_NAME, Fields

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
Model = TypeVar("Model", bound=nn.Module)

# Keys that say nothing about the adapter's function. Any other key must be off (null, false, 0 or
# empty): PEFT switches its variants on there, and an adapter read without its variant is wrong.
_DESCRIPTIVE = {
    "auto_mapping",
    "inference_mode",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "task_type",
}


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """An adapter read from a folder.

    Args:
        config: its options; their class says which method it is.
        tensors: weights and trained biases by their path in the model, as in the file but without
            `base_model.model.`.
        base_name: name or path of the model it was trained on, if it says so.
        folder: where it was read.
    """

    config: AdapterConfig
    tensors: Mapping[str, Tensor]
    base_name: str | None
    folder: Path


def save(
    model: nn.Module, folder: str | Path, config: AdapterConfig, base_name: str | None = None
) -> None:
    """Write the model's adapters and trained biases for PEFT, vLLM and `load`.

    Each file appears whole or not at all.

    Args:
        model: as the method's `apply` left it, trained.
        folder: made if absent.
        config: what `apply` was given.
        base_name: name or path of the base model, for readers of the file.

    Raises:
        ValueError: the model has no adapters of the config's method, or they do not fit it.
    """
    form = adapter_formats.of_config(config)
    fields = {
        "peft_type": form.peft_type,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        **form.to_fields(model, config),
    }
    tensors = {
        name: tensor.detach().contiguous().cpu().clone()
        for name, tensor in form.tensors(model, config).items()
    }
    folder = Path(folder)
    with atomic_path(folder / WEIGHTS_NAME) as path:
        save_file(tensors, path, metadata={"format": "pt"})
    with atomic_path(folder / CONFIG_NAME) as path:
        path.write_text(json.dumps(fields, indent=2) + "\n")


def load(model: Model, folder: str | Path) -> Model:
    """Put the adapter in a folder onto a model without adapters, in place; see `attach`."""
    return attach(model, read(folder))


def read(folder: str | Path) -> Adapter:
    """Read an adapter without a model.

    Raises:
        CorruptFileError: a file is damaged, truncated or holds something else.
        FileNotFoundError: a file is absent.
        ValueError: the adapter is of no method known here, or of a variant that is not; the message
            names the options that make it so.
    """
    folder = Path(folder)
    config, base_name = _read_config(folder / CONFIG_NAME)
    return Adapter(config, _read_tensors(folder / WEIGHTS_NAME), base_name, folder)


def attach(model: Model, adapter: Adapter) -> Model:
    """Apply an adapter's config and copy its tensors, in place; freeze the rest.

    Tensors are rounded to the dtype of the layer they adapt. Biases that were trained with the
    adapter replace the model's, and taking the adapter off leaves them there.

    Returns:
        The same model.

    Raises:
        ValueError: the adapter was made for another model, or there are adapters on this one. The
            model is then unchanged.
    """
    form = adapter_formats.of_config(adapter.config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    form.apply(model, adapter.config)
    targets = {
        name.removeprefix(PREFIX): tensor
        for name, tensor in form.tensors(model, adapter.config).items()
    }
    try:
        _check_tensors(adapter, targets)
    except ValueError:
        form.remove(model).requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        raise
    with torch.no_grad():
        for name, tensor in adapter.tensors.items():
            targets[name].copy_(tensor)
    return model


def _check_tensors(adapter: Adapter, targets: Mapping[str, Tensor]) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in targets.items()}
    got = {name: tuple(tensor.shape) for name, tensor in adapter.tensors.items()}
    wrong = [name for name in {**shapes, **got} if shapes.get(name) != got.get(name)]
    if wrong:
        first = wrong[0]
        raise ValueError(
            f"the adapter in {adapter.folder} does not fit this model: {len(wrong)} "
            f"tensors differ, first {first}: the model takes {shapes.get(first)}, "
            f"the file has {got.get(first)}"
        )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is absent; adapters are read from safetensors only")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise CorruptFileError(f"{path} is damaged or truncated: {error}") from error
    for name, tensor in tensors.items():
        known = name.startswith(PREFIX) or name == PROMPT_NAME
        if not (known and tensor.is_floating_point()):
            raise CorruptFileError(f"{path} holds {name} ({tensor.dtype}): not an adapter's")
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}


def _read_config(path: Path) -> tuple[AdapterConfig, str | None]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{path} is damaged or truncated: {error}") from error
    if not isinstance(fields, dict):
        raise CorruptFileError(f"{path} does not hold a JSON object")
    try:
        return _from_fields(fields)
    except (KeyError, TypeError) as error:
        raise CorruptFileError(
            f"{path} lacks a field or has one of a wrong type: {error}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _from_fields(fields: Fields) -> tuple[AdapterConfig, str | None]:
    rest = {key: value for key, value in fields.items() if key not in _DESCRIPTIVE}
    base_name = rest.pop("base_model_name_or_path", None)
    config = adapter_formats.of_peft_type(rest.pop("peft_type")).from_fields(rest)
    if on := {key: value for key, value in rest.items() if value}:
        listed = ", ".join(f"{key}={value!r}" for key, value in on.items())
        raise ValueError(f"asks for what is not supported here: {listed}")
    return config, cast("str | None", base_name)
