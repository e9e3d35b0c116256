"""Prompt tuning, P-tuning and prefix tuning in PEFT's files: one tensor, the finished prompt."""

from typing import Any

from torch import Tensor, nn

from labkit.tuning import p_tuning, prefix_tuning, prompt_tuning, soft_prompt
from labkit.tuning.file_format import PROMPT_NAME, Fields, Format
from labkit.tuning.p_tuning import PromptEncoder, PTuningConfig
from labkit.tuning.prefix_tuning import Prefix, PrefixTuningConfig
from labkit.tuning.prompt_tuning import PromptEmbeddings, PromptTuningConfig
from labkit.tuning.soft_prompt import SoftPrompt

# What PEFT notes of the model and of networks that a file does not hold.
_DESCRIPTIVE = (
    "encoder_dropout",
    "encoder_hidden_size",
    "encoder_num_layers",
    "encoder_reparameterization_type",
    "init_weights",
    "num_attention_heads",
    "num_layers",
    "num_transformer_submodules",
    "prefix_projection",
    "prompt_tuning_init",
    "prompt_tuning_init_text",
    "token_dim",
    "tokenizer_kwargs",
    "tokenizer_name_or_path",
)


def _fields(model: nn.Module, prompt: SoftPrompt, config: Any) -> Fields:
    if prompt.num_virtual_tokens != config.num_virtual_tokens:
        raise ValueError(
            f"the model has {prompt.num_virtual_tokens} virtual tokens; the config says "
            f"{config.num_virtual_tokens}: give the one that apply was given"
        )
    layers, groups, width = prefix_tuning.cache_shape(model)
    return {
        "num_virtual_tokens": config.num_virtual_tokens,
        "num_transformer_submodules": 1,
        "num_layers": layers,
        # A prefix has the key/value heads' width; rows before the embeddings have the model's.
        "num_attention_heads": groups,
        "token_dim": groups * width,
    }


def _embedding_fields(model: nn.Module, prompt: SoftPrompt, config: Any) -> Fields:
    return _fields(model, prompt, config) | {
        "token_dim": soft_prompt.embedding(model).embedding_dim
    }


def _prompt_fields(model: nn.Module, config: PromptTuningConfig) -> Fields:
    return _embedding_fields(model, soft_prompt.of(model, PromptEmbeddings), config) | {
        "prompt_tuning_init": "RANDOM"
    }


def _p_fields(model: nn.Module, config: PTuningConfig) -> Fields:
    return _embedding_fields(model, soft_prompt.of(model, PromptEncoder), config) | {
        "encoder_reparameterization_type": config.encoder.upper(),
        "encoder_hidden_size": config.hidden,
        "encoder_num_layers": config.lstm_layers if config.encoder == "lstm" else 2,
    }


def _prefix_fields(model: nn.Module, config: PrefixTuningConfig) -> Fields:
    return _fields(model, soft_prompt.of(model, Prefix), config) | {
        "encoder_hidden_size": config.hidden,
        "prefix_projection": config.projection,
    }


def _prompt_tensors(model: nn.Module, config: PromptTuningConfig) -> dict[str, Tensor]:
    return {PROMPT_NAME: soft_prompt.of(model, PromptEmbeddings).prompt_embeddings}


def _num_tokens(fields: Fields) -> int:
    for name in _DESCRIPTIVE:
        if name == "num_transformer_submodules" and fields.get(name, 1) != 1:
            raise ValueError(f"{name}={fields[name]!r}: only decoders have a place here")
        fields.pop(name, None)
    return int(fields.pop("num_virtual_tokens"))


def _prompt_config(fields: Fields) -> PromptTuningConfig:
    return PromptTuningConfig(num_virtual_tokens=_num_tokens(fields))


def _prefix_config(fields: Fields) -> PrefixTuningConfig:
    return PrefixTuningConfig(num_virtual_tokens=_num_tokens(fields))


PROMPT_TUNING = Format(
    peft_type="PROMPT_TUNING",
    config=PromptTuningConfig,
    apply=prompt_tuning.apply,
    remove=prompt_tuning.remove,
    tensors=_prompt_tensors,
    to_fields=_prompt_fields,
    from_fields=_prompt_config,
)
P_TUNING = Format(
    peft_type="P_TUNING",
    config=PTuningConfig,
    apply=p_tuning.apply,
    remove=p_tuning.remove,
    tensors=lambda model, config: {PROMPT_NAME: soft_prompt.of(model, PromptEncoder).vectors()},
    to_fields=_p_fields,
    from_fields=_prompt_config,
)
PREFIX_TUNING = Format(
    peft_type="PREFIX_TUNING",
    config=PrefixTuningConfig,
    apply=prefix_tuning.apply,
    remove=prefix_tuning.remove,
    tensors=lambda model, config: {PROMPT_NAME: soft_prompt.of(model, Prefix).rows()},
    to_fields=_prefix_fields,
    from_fields=_prefix_config,
)
