"""Hugging Face model folders: written for transformers and vLLM to load, and read strictly."""

import json
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from labkit.model.config import ModelConfig
from labkit.model.hf_config import config_from_json, config_to_json, hub_name, own_name
from labkit.model.minillm import MiniLLM
from labkit.model.tokenizer import Tokenizer
from labkit.runtime.cache import atomic_path
from labkit.runtime.device import choose_device, choose_dtype
from labkit.runtime.errors import CorruptFileError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
# Old checkpoints carry RoPE's frequencies, which follow from the configuration.
_DERIVED = "rotary_emb.inv_freq"


def save_folder(model: MiniLLM, tokenizer: Tokenizer, folder: Path | str) -> None:
    """Writes weights, configuration and tokenizer; other files in the folder stay.

    `config.json` is removed first and written last: a folder whose writing was cut short has none
    and is refused by `load_folder`, so old and new files are never mixed.

    Raises:
        ValueError: the model's layers were replaced (an adapter, packed weights), or no class of
            transformers computes its configuration.
    """
    folder = Path(folder)
    state = _own_state(model)
    dtype = next(iter(state.values())).dtype
    content = config_to_json(model.config, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    with atomic_path(folder / WEIGHTS) as path:
        named = {hub_name(name): tensor for name, tensor in state.items()}
        save_file(named, path, metadata={"format": "pt"})
    tokenizer.save(folder)
    ends = {"eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    if tokenizer.bos_token is not None:
        ends["bos_token_id"] = tokenizer.token_id(tokenizer.bos_token)
    _write_json(folder / "generation_config.json", ends)
    _write_json(folder / CONFIG, {**content, **ends})


def load_folder(
    folder: Path | str,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
) -> tuple[MiniLLM, Tokenizer]:
    """The model (in eval mode) and tokenizer of a folder; all of it, or an error.

    Read are Llama, Mistral, Mixtral, and StableLM that rotates whole heads.

    Raises:
        FileNotFoundError: no config.json, weights or tokenizer there.
        CorruptFileError: a file is damaged, or its tensors are not exactly the model's.
        ValueError: the folder holds another architecture.
    """
    folder = Path(folder)
    device = choose_device(device)
    dtype = choose_dtype(dtype, device)
    config = config_from_json(_read_json(folder / CONFIG), folder / CONFIG)
    tokenizer = Tokenizer.load(folder)
    state = {
        own_name(name): tensor.to(device=device, dtype=dtype)
        for file in _weight_files(folder)
        for name, tensor in _read_tensors(file).items()
        if not name.endswith(_DERIVED)
    }
    return from_state(config, state, source=folder), tokenizer


def from_state(config: ModelConfig, state: dict[str, Tensor], *, source: Path) -> MiniLLM:
    """A MiniLLM, in eval mode, that takes over exactly the tensors of `state`.

    Raises:
        CorruptFileError: a tensor is missing, extra or of another shape; names `source`.
    """
    with torch.device("meta"):
        model = MiniLLM(config)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if config.tie_embeddings and "model.embed_tokens.weight" in state:
        state = {**state, "lm_head.weight": state["model.embed_tokens.weight"]}
    problems = [f"{name} is missing" for name in expected.keys() - state.keys()]
    problems += [f"{name} is unexpected" for name in state.keys() - expected.keys()]
    problems += [
        f"{name} has shape {tuple(state[name].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in state and state[name].shape != shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:3])
        raise CorruptFileError(f"{source} does not fit its configuration: {shown}")
    model.load_state_dict(state, assign=True)
    model.tie()
    return model.eval()


def _own_state(model: MiniLLM) -> dict[str, Tensor]:
    """The model's tensors, the shared head left out as transformers does."""
    with torch.device("meta"):
        expected = MiniLLM(model.config).state_dict().keys()
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    if state.keys() != expected:
        strange = sorted(state.keys() ^ expected)[:3]
        raise ValueError(
            f"the model's layers were replaced ({', '.join(strange)}, ...): merge the adapter or "
            "dequantize before saving a Hugging Face folder"
        )
    if model.config.tie_embeddings:
        del state["lm_head.weight"]
    return state


def _weight_files(folder: Path) -> list[Path]:
    if not (folder / INDEX).is_file():
        return [folder / WEIGHTS]
    shards = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict):
        raise CorruptFileError(f"{folder / INDEX} has no weight_map")
    return [folder / name for name in sorted(set(shards.values()))]


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: the folder has no weights there")
    try:
        tensors: dict[str, Tensor] = load_file(path)
        return tensors
    except (safetensors.SafetensorError, ValueError) as error:
        raise CorruptFileError(f"{path} is truncated or damaged: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: is this a Hugging Face model folder?")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptFileError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CorruptFileError(f"{path} holds {type(content).__name__}, not an object")
    return content


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
