"""LoRA adapters in PEFT's file format, in both directions.

A folder with `adapter_config.json` and `adapter_model.safetensors`, whose keys are
`base_model.model.<path>.lora_A.weight`.
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
from labkit.tuning import lora

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
_PREFIX = "base_model.model."
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
_PLAIN_INITS = (True, False, "gaussian", "orthogonal")  # those that leave the base's weights alone


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """A LoRA adapter read from a folder.

    Args:
        config: its options.
        tensors: weights and trained biases by their path in the model, as in the file but without
            `base_model.model.`.
        base_name: name or path of the model it was trained on, if it says so.
        folder: where it was read.
    """

    config: lora.LoraConfig
    tensors: Mapping[str, Tensor]
    base_name: str | None
    folder: Path


def save(
    model: nn.Module, folder: str | Path, config: lora.LoraConfig, base_name: str | None = None
) -> None:
    """Write the model's adapters and trained biases for PEFT, vLLM and `load`.

    Each file appears whole or not at all.

    Args:
        model: as `lora.apply` left it, trained.
        folder: made if absent.
        config: what `lora.apply` was given.
        base_name: name or path of the base model, for readers of the file.

    Raises:
        ValueError: the model has no adapters, or they do not fit the config.
    """
    adapters = lora.layers(model)
    for name, layer in adapters.items():
        if layer.lora_A.weight.shape[0] != config.rank or layer.scaling != config.scaling:
            raise ValueError(
                f"{name} has rank {layer.lora_A.weight.shape[0]} and scaling {layer.scaling}; the "
                f"config says {config.rank} and {config.scaling}: give the one that apply was given"
            )
    targets = config.target_modules
    names = sorted(adapters) if isinstance(targets, str) else list(targets)
    tensors = {
        _PREFIX + name: tensor.detach().contiguous().cpu().clone()
        for name, tensor in _adapter_tensors(model, config).items()
    }
    folder = Path(folder)
    with atomic_path(folder / WEIGHTS_NAME) as path:
        save_file(tensors, path, metadata={"format": "pt"})
    with atomic_path(folder / CONFIG_NAME) as path:
        path.write_text(json.dumps(_to_peft(config, names, base_name), indent=2) + "\n")


def load(model: Model, folder: str | Path) -> Model:
    """Put the adapter in a folder onto a model without adapters, in place; see `attach`."""
    return attach(model, read(folder))


def read(folder: str | Path) -> Adapter:
    """Read an adapter without a model.

    Raises:
        CorruptFileError: a file is damaged, truncated or holds something else.
        FileNotFoundError: a file is absent.
        ValueError: the adapter is no plain LoRA; the message names the options that make it so.
    """
    folder = Path(folder)
    config, base_name = _read_config(folder / CONFIG_NAME)
    return Adapter(config, _read_tensors(folder / WEIGHTS_NAME), base_name, folder)


def attach(model: Model, adapter: Adapter) -> Model:
    """Apply an adapter's config and copy its tensors, in place; freeze the rest.

    Tensors are rounded to the dtype of the layer they adapt. Biases that were trained with the
    adapter replace the model's, and `lora.remove` leaves them there.

    Returns:
        The same model.

    Raises:
        ValueError: the adapter was made for another model, or there are adapters on this one. The
            model is then unchanged.
    """
    shapes = _expected_shapes(model, adapter.config)
    _check_tensors(adapter, shapes)
    lora.apply(model, adapter.config)
    targets = _adapter_tensors(model, adapter.config)
    with torch.no_grad():
        for name, tensor in adapter.tensors.items():
            targets[name].copy_(tensor)
    return model


def _adapter_tensors(model: nn.Module, config: lora.LoraConfig) -> dict[str, Tensor]:
    """What a file holds: A and B of every adapter, and the biases that the config trains."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if ".lora_A." in name or ".lora_B." in name or lora.trains_bias(config, name)
    }


def _expected_shapes(model: nn.Module, config: lora.LoraConfig) -> dict[str, tuple[int, ...]]:
    """Shapes by name that the model will have once the config is applied."""
    names = lora.adapted_names(model, config)
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        base = cast(nn.Linear, model.get_submodule(name))
        shapes[f"{name}.lora_A.weight"] = (config.rank, base.in_features)
        shapes[f"{name}.lora_B.weight"] = (base.out_features, config.rank)
    for name, parameter in model.named_parameters():
        parent, _, leaf = name.rpartition(".")
        adapted = f"{parent}.base_layer.{leaf}" if parent in names else name
        if lora.trains_bias(config, adapted):
            shapes[adapted] = tuple(parameter.shape)
    return shapes


def _check_tensors(adapter: Adapter, shapes: dict[str, tuple[int, ...]]) -> None:
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
        if not (name.startswith(_PREFIX) and tensor.is_floating_point()):
            raise CorruptFileError(f"{path} holds {name} ({tensor.dtype}): not a LoRA adapter")
    return {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}


def _read_config(path: Path) -> tuple[lora.LoraConfig, str | None]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{path} is damaged or truncated: {error}") from error
    if not isinstance(fields, dict):
        raise CorruptFileError(f"{path} does not hold a JSON object")
    try:
        return _from_peft(fields, path)
    except (KeyError, TypeError) as error:
        raise CorruptFileError(
            f"{path} lacks a field or has one of a wrong type: {error}"
        ) from error


def _from_peft(fields: dict[str, object], path: Path) -> tuple[lora.LoraConfig, str | None]:
    rest = {key: value for key, value in fields.items() if key not in _DESCRIPTIVE}
    if (kind := rest.pop("peft_type")) != "LORA":
        raise ValueError(f"{path}: peft_type={kind!r}, and only 'LORA' is read here")
    init = rest.pop("init_lora_weights", True)
    if init not in _PLAIN_INITS:
        raise ValueError(f"{path}: init_lora_weights={init!r} changes the base model's weights")
    targets = rest.pop("target_modules")
    base_name = rest.pop("base_model_name_or_path", None)
    options = {
        "rank": rest.pop("r"),
        "alpha": rest.pop("lora_alpha"),
        "dropout": rest.pop("lora_dropout", 0.0),
        "bias": rest.pop("bias", "none"),
        "use_rslora": rest.pop("use_rslora", False),
    }
    if on := {key: value for key, value in rest.items() if value}:
        listed = ", ".join(f"{key}={value!r}" for key, value in on.items())
        raise ValueError(f"{path} asks for what is not supported here: {listed}")
    names = targets if isinstance(targets, str) else tuple(cast("list[str]", targets))
    config = lora.LoraConfig(target_modules=names, **options)  # type: ignore[arg-type]
    return config, cast("str | None", base_name)


def _to_peft(config: lora.LoraConfig, names: list[str], base_name: str | None) -> dict[str, object]:
    alpha = float(config.alpha)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": config.dropout,
        "target_modules": names,
        "bias": config.bias,
        "use_rslora": config.use_rslora,
        "use_dora": False,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
    }
