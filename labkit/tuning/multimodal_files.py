"""The parts that make a language model see, on disk: encoder and projector, without the model.

A folder with `multimodal.json` and `multimodal.safetensors`. Adapters of the language model go
beside them, through `adapter_files`.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from labkit.model.vision import VisionConfig, VisionEncoder
from labkit.runtime.cache import atomic_path
from labkit.runtime.errors import CorruptFileError
from labkit.tuning.multimodal import ProjectorConfig, VisionLanguageModel

CONFIG_NAME = "multimodal.json"
WEIGHTS_NAME = "multimodal.safetensors"
_SAVED = ("encoder.", "projector.")


def save(model: VisionLanguageModel, folder: str | Path) -> None:
    """Write encoder and projector; each file appears whole or not at all.

    Args:
        model: trained; its language model is not written.
        folder: made if absent.
    """
    fields = {
        "vision": asdict(model.encoder.config),
        "projector": asdict(model.projector.config),
        "image_id": model.tokens.image_id,
    }
    tensors = {
        name: tensor.detach().contiguous().cpu()
        for name, tensor in model.state_dict().items()
        if name.startswith(_SAVED)
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / WEIGHTS_NAME) as path:
        save_file(tensors, path, metadata={"format": "pt"})
    with atomic_path(folder / CONFIG_NAME) as path:
        path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def load(language_model: nn.Module, folder: str | Path) -> VisionLanguageModel:
    """The language model with the encoder and the projector of a folder; nothing trains.

    Raises:
        FileNotFoundError: a file is absent.
        CorruptFileError: a file is damaged, truncated or holds something else.
        ValueError: the parts were made for a language model of another width.
    """
    folder = Path(folder)
    vision, projector, image_id = _read_config(folder / CONFIG_NAME)
    tensors = _read_tensors(folder / WEIGHTS_NAME)
    model = VisionLanguageModel(VisionEncoder(vision), language_model, projector, image_id=image_id)
    targets = {n: t for n, t in model.state_dict().items() if n.startswith(_SAVED)}
    shapes = {name: tuple(tensor.shape) for name, tensor in targets.items()}
    got = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wrong := [name for name in {**shapes, **got} if shapes.get(name) != got.get(name)]:
        raise ValueError(
            f"{folder} does not fit this model: {len(wrong)} tensors differ, first {wrong[0]}: the "
            f"model takes {shapes.get(wrong[0])}, the file has {got.get(wrong[0])}"
        )
    for name, tensor in tensors.items():
        targets[name].copy_(tensor)
    return model


def _read_config(path: Path) -> tuple[VisionConfig, ProjectorConfig, int]:
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        parts = VisionConfig(**fields["vision"]), ProjectorConfig(**fields["projector"])
        return *parts, int(fields["image_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(f"{path} is damaged or of another kind: {error}") from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is absent")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise CorruptFileError(f"{path} is damaged or truncated: {error}") from error
    return tensors
