"""Hugging Face Llama folders: written for transformers and vLLM to load, and read strictly."""

import json
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from labkit.model.config import ModelConfig
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
        ValueError: the model's layers were replaced (an adapter, packed weights).
    """
    folder = Path(folder)
    state = _own_state(model)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    with atomic_path(folder / WEIGHTS) as path:
        save_file(state, path, metadata={"format": "pt"})
    tokenizer.save(folder)
    dtype = next(iter(state.values())).dtype
    ends = {"eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    if tokenizer.bos_token is not None:
        ends["bos_token_id"] = tokenizer.token_id(tokenizer.bos_token)
    _write_json(folder / "generation_config.json", ends)
    _write_json(folder / CONFIG, {**config_to_json(model.config, dtype), **ends})


def load_folder(
    folder: Path | str,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
) -> tuple[MiniLLM, Tokenizer]:
    """The model (in eval mode) and tokenizer of a Llama folder; all of it, or an error.

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
        name: tensor.to(device=device, dtype=dtype)
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


def config_to_json(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The content of config.json, for both the old and the new spelling of RoPE's base."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.ffn_width,
        "max_position_embeddings": config.max_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def config_from_json(content: dict[str, Any], path: Path) -> ModelConfig:
    """Reads config.json, refusing what MiniLLM does not compute rather than ignoring it."""
    _refuse_other_models(content, path)
    rope = content.get("rope_parameters") or {}
    try:
        heads, width = content["num_attention_heads"], content["hidden_size"]
        return ModelConfig(
            vocab_size=content["vocab_size"],
            width=width,
            num_layers=content["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=content.get("num_key_value_heads") or heads,
            head_width=content.get("head_dim") or width // heads,
            ffn_width=content["intermediate_size"],
            rope_theta=float(rope.get("rope_theta", content.get("rope_theta", 10_000.0))),
            norm_eps=float(content.get("rms_norm_eps", 1e-6)),
            max_length=content.get("max_position_embeddings", 2048),
            tie_embeddings=content.get("tie_word_embeddings", False),
        )
    except KeyError as error:
        raise CorruptFileError(f"{path} lacks {error}") from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise CorruptFileError(f"{path} is not usable: {error}") from error


def _refuse_other_models(content: dict[str, Any], path: Path) -> None:
    if content.get("model_type") != "llama":
        raise ValueError(f"{path}: model_type={content.get('model_type')!r}, only 'llama' is read")
    for name, only in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        if content.get(name, only) != only:
            raise ValueError(f"{path}: {name}={content[name]!r} is not supported, only {only!r}")
    rope = content.get("rope_parameters") or content.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ValueError(f"{path}: RoPE scaling {kind!r} is not supported, only plain RoPE")


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
