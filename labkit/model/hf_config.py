"""Hugging Face's description of a model: which class computes it, config.json, tensor names."""

import re
from pathlib import Path
from typing import Any

import torch

from labkit.model.config import ModelConfig, MoeConfig
from labkit.runtime.errors import CorruptFileError

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",  # Llama with a sliding window
    "mixtral": "MixtralForCausalLM",  # Mistral with experts
    "stablelm": "StableLmForCausalLM",  # Llama with LayerNorm
}
# What each class can compute and MiniLLM cannot: only these values are read.
_ONLY: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": False, "mlp_bias": False},
    "mistral": {},
    "mixtral": {"router_jitter_noise": 0.0},
    "stablelm": {"use_qkv_bias": False, "qk_layernorm": False, "use_parallel_residual": False},
}
# Values that a class takes where config.json is silent, if they are not Llama's.
_DEFAULT_EPS = {"mixtral": 1e-5, "stablelm": 1e-5}
_DEFAULT_ROTARY_SHARE = {"stablelm": 0.25}
_DEFAULT_WINDOW = {"mistral": 4096}
_MIXTRAL_NAMES = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
_MIXTRAL_PARTS = {hub: own for own, hub in _MIXTRAL_NAMES.items()}


def model_type(config: ModelConfig) -> str:
    """The `model_type` of the class that computes the same logits.

    Raises:
        ValueError: there is none.
    """
    window = config.sliding_window
    if config.norm_position == "pre" and config.norm == "rms":
        if config.moe is not None:
            return "mixtral"
        return "llama" if window is None else "mistral"
    square = config.num_heads * config.head_width == config.width
    if config.norm_position == "pre" and config.moe is None and window is None and square:
        return "stablelm"
    raise ValueError(
        f"no Hugging Face class computes norm={config.norm!r}, norm_position="
        f"{config.norm_position!r}, sliding_window={window}, moe={config.moe} with "
        f"{config.num_heads} heads of {config.head_width} in width={config.width}: keep the "
        "weights with labkit.training.checkpoint.save"
    )


def config_to_json(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The content of config.json, for both the old and the new spelling of RoPE's base.

    Raises:
        ValueError: no class of transformers computes this configuration.
    """
    kind = model_type(config)
    return {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.ffn_width,
        "max_position_embeddings": config.max_length,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "torch_dtype": str(dtype).removeprefix("torch."),
        **_ONLY[kind],
        **_own_fields(config, kind),
    }


def config_from_json(content: dict[str, Any], path: Path) -> ModelConfig:
    """Reads config.json, refusing what MiniLLM does not compute rather than ignoring it."""
    _refuse_other_models(content, path)
    kind = content["model_type"]
    rope = content.get("rope_parameters") or {}
    eps = "layer_norm_eps" if kind == "stablelm" else "rms_norm_eps"
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
            norm_eps=float(content.get(eps, _DEFAULT_EPS.get(kind, 1e-6))),
            max_length=content.get("max_position_embeddings", 2048),
            tie_embeddings=content.get("tie_word_embeddings", False),
            sliding_window=_window(content, kind),
            norm="layer" if kind == "stablelm" else "rms",
            moe=_moe(content) if kind == "mixtral" else None,
        )
    except KeyError as error:
        raise CorruptFileError(f"{path} lacks {error}") from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise CorruptFileError(f"{path} is not usable: {error}") from error


def hub_name(name: str) -> str:
    """A tensor's name in published files: Mixtral's experts have their own."""
    name = name.replace(".mlp.router.", ".block_sparse_moe.gate.")
    return re.sub(
        r"\.mlp\.experts\.(\d+)\.(\w+)",
        lambda m: f".block_sparse_moe.experts.{m[1]}.{_MIXTRAL_NAMES[m[2]]}",
        name,
    )


def own_name(name: str) -> str:
    """The inverse of `hub_name`; names it does not know stay."""
    name = name.replace(".block_sparse_moe.gate.", ".mlp.router.")
    return re.sub(
        r"\.block_sparse_moe\.experts\.(\d+)\.(w[123])",
        lambda m: f".mlp.experts.{m[1]}.{_MIXTRAL_PARTS[m[2]]}",
        name,
    )


def _own_fields(config: ModelConfig, kind: str) -> dict[str, Any]:
    """What only some of the classes have."""
    if kind == "stablelm":
        rope = {"rope_theta": config.rope_theta, "rope_type": "default"}
        share = {"partial_rotary_factor": 1.0}
        return {"layer_norm_eps": config.norm_eps, "rope_parameters": rope | share, **share}
    fields: dict[str, Any] = {"rms_norm_eps": config.norm_eps}
    if kind in ("mistral", "mixtral"):
        fields["sliding_window"] = config.sliding_window
    if config.moe is not None:
        fields["num_local_experts"] = config.moe.num_experts
        fields["num_experts_per_tok"] = config.moe.top_k
        # Ours alone, and of training alone: transformers drops nothing, as we outside of it.
        fields["capacity_factor"] = config.moe.capacity_factor
    return fields


def _window(content: dict[str, Any], kind: str) -> int | None:
    if kind not in ("mistral", "mixtral"):
        return None
    window: int | None = content.get("sliding_window", _DEFAULT_WINDOW.get(kind))
    return window


def _moe(content: dict[str, Any]) -> MoeConfig:
    return MoeConfig(
        num_experts=content["num_local_experts"],
        top_k=content["num_experts_per_tok"],
        capacity_factor=content.get("capacity_factor"),
    )


def _refuse_other_models(content: dict[str, Any], path: Path) -> None:
    kind = content.get("model_type")
    if kind not in ARCHITECTURES:
        known = ", ".join(map(repr, ARCHITECTURES))
        raise ValueError(f"{path}: model_type={kind!r}, only {known} are read")
    for name, only in {"hidden_act": "silu", **_ONLY[kind]}.items():
        if content.get(name, only) != only:
            raise ValueError(f"{path}: {name}={content[name]!r} is not supported, only {only!r}")
    rope = content.get("rope_parameters") or content.get("rope_scaling") or {}
    scaling = rope.get("rope_type", rope.get("type", "default"))
    if scaling != "default":
        raise ValueError(f"{path}: RoPE scaling {scaling!r} is not supported, only plain RoPE")
    share = content.get("partial_rotary_factor", _DEFAULT_ROTARY_SHARE.get(kind, 1.0))
    share = rope.get("partial_rotary_factor", share)
    if share != 1.0:
        raise ValueError(f"{path}: partial_rotary_factor={share} is not supported, only 1.0")
