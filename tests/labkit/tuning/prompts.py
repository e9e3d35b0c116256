"""Soft prompts of each kind, ours and PEFT's, on a model that hears them."""

import copy
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import nn

from labkit.model.config import ModelConfig
from labkit.model.minillm import MiniLLM
from labkit.tuning import p_tuning, prefix_tuning, prompt_tuning
from labkit.tuning.p_tuning import PTuningConfig
from labkit.tuning.prefix_tuning import PrefixTuningConfig
from labkit.tuning.prompt_tuning import PromptTuningConfig

from .llama import tiny_llama

P, HIDDEN = 3, 5
METHODS: dict[str, tuple[Callable[..., nn.Module], Any, peft.PeftConfig]] = {
    "prompt": (
        prompt_tuning.apply,
        PromptTuningConfig(num_virtual_tokens=P),
        peft.PromptTuningConfig(num_virtual_tokens=P, task_type="CAUSAL_LM"),
    ),
    "p-mlp": (
        p_tuning.apply,
        PTuningConfig(num_virtual_tokens=P, encoder="mlp", hidden=HIDDEN),
        peft.PromptEncoderConfig(
            num_virtual_tokens=P, encoder_hidden_size=HIDDEN, task_type="CAUSAL_LM"
        ),
    ),
    "p-lstm": (
        p_tuning.apply,
        PTuningConfig(num_virtual_tokens=P, encoder="lstm", hidden=HIDDEN),
        peft.PromptEncoderConfig(
            num_virtual_tokens=P,
            encoder_hidden_size=HIDDEN,
            encoder_reparameterization_type="LSTM",
            encoder_dropout=0.0,
            task_type="CAUSAL_LM",
        ),
    ),
    "prefix": (
        prefix_tuning.apply,
        PrefixTuningConfig(num_virtual_tokens=P),
        peft.PrefixTuningConfig(num_virtual_tokens=P, task_type="CAUSAL_LM"),
    ),
    "prefix-mlp": (
        prefix_tuning.apply,
        PrefixTuningConfig(num_virtual_tokens=P, projection=True, hidden=HIDDEN),
        peft.PrefixTuningConfig(
            num_virtual_tokens=P,
            prefix_projection=True,
            encoder_hidden_size=HIDDEN,
            task_type="CAUSAL_LM",
        ),
    ),
}
COUNTS = {
    "prompt": P * 24,
    "p-mlp": P * 24 + (24 + 1) * 5 + (5 + 1) * 5 + (5 + 1) * 24,
    "p-lstm": P * 24 + 8 * 5 * (24 + 5 + 2) + 8 * 5 * (10 + 5 + 2) + 11 * 10 + 11 * 24,
    "prefix": P * 2 * 2 * 8,
    "prefix-mlp": P * 8 + (8 + 1) * 5 + (5 + 1) * 2 * 2 * 8,
}
every_method = pytest.mark.parametrize("method", METHODS)


def ids(gen: torch.Generator, length: int = 11) -> torch.Tensor:
    return torch.randint(97, (2, length), generator=gen)


def loud_llama() -> transformers.LlamaForCausalLM:
    """With weights of trained size, so that a prompt is heard."""
    model = tiny_llama()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(1 if name.endswith("norm.weight") else 5)
    return model


def twin(model: transformers.LlamaForCausalLM) -> MiniLLM:
    config = ModelConfig(
        vocab_size=97,
        width=24,
        num_layers=2,
        num_heads=6,
        num_kv_heads=2,
        head_width=4,
        ffn_width=40,
        norm_eps=1e-6,
        tie_embeddings=False,
    )
    mini = MiniLLM(config)
    mini.load_state_dict(model.state_dict())
    return mini.eval()


def pair(method: str, gen: torch.Generator) -> tuple[nn.Module, peft.PeftModel]:
    """Our model and PEFT's, with equal prompts of size one."""
    apply, config, settings = METHODS[method]
    ours = apply(loud_llama(), config, generator=gen)
    theirs = peft.get_peft_model(loud_llama(), copy.deepcopy(settings)).eval()
    encoder = theirs.prompt_encoder["default"]
    state = {
        name.replace("prompt_embeddings", "embedding.weight"): parameter
        for name, parameter in ours.soft_prompt.named_parameters()
    }
    with torch.no_grad():
        for parameter in state.values():
            parameter.normal_(std=0.7, generator=gen)
    encoder.load_state_dict(state)
    return ours, theirs


def theirs_logits(theirs: peft.PeftModel, method: str, **inputs: torch.Tensor) -> torch.Tensor:
    logits = theirs(**inputs).logits
    return logits if method.startswith("prefix") else logits[:, P:]
