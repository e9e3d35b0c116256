"""A small random chat model over bytes, and any MiniLLM as transformers' Llama."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import decoders, models
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn

from labkit.model import huggingface, minillm, zoo
from labkit.model.config import ModelConfig
from labkit.model.tokenizer import CHATML_TEMPLATE, Tokenizer


@pytest.fixture
def as_llama() -> Callable[[minillm.MiniLLM], nn.Module]:
    """Put a MiniLLM's weights into transformers' Llama: the independent source of its numbers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def as_llama(model: minillm.MiniLLM) -> nn.Module:
        c = model.config
        config = LlamaConfig(
            vocab_size=c.vocab_size,
            hidden_size=c.width,
            intermediate_size=c.ffn_width,
            num_hidden_layers=c.num_layers,
            num_attention_heads=c.num_heads,
            num_key_value_heads=c.num_kv_heads,
            head_dim=c.head_width,
            max_position_embeddings=c.max_length,
            rms_norm_eps=c.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
            tie_word_embeddings=c.tie_embeddings,
            bos_token_id=None,
            eos_token_id=None,
        )
        llama = LlamaForCausalLM(config).eval()
        llama.load_state_dict(model.state_dict(), strict=True)
        return llama

    return as_llama


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    """One token a byte, then ChatML's special tokens: the hardest case for streamed text."""
    alphabet = sorted(ByteLevel.alphabet(), key=ord)
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return Tokenizer(backend, eos_token="<|im_end|>", chat_template=CHATML_TEMPLATE)


@pytest.fixture(scope="session")
def byte_loaded(byte_tokenizer: Tokenizer) -> zoo.Loaded:
    """A random MiniLLM over those tokens; a test that changes it must work on a copy."""
    config = ModelConfig(
        vocab_size=byte_tokenizer.vocab_size,
        width=24,
        num_layers=3,
        num_heads=6,
        num_kv_heads=2,
        head_width=4,
        ffn_width=40,
        max_length=190,
        tie_embeddings=False,
    )
    model = minillm.MiniLLM(config)
    minillm.initialise(model, torch.Generator().manual_seed(7))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 7 if parameter.ndim > 1 else 1  # far from uniform: argmax has a margin
    return zoo.Loaded(model=model.eval(), tokenizer=byte_tokenizer, config=config, name="byte")


@pytest.fixture(scope="session")
def byte_folder(byte_loaded: zoo.Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("models") / "byte"
    huggingface.save_folder(byte_loaded.model, byte_loaded.tokenizer, folder)
    return folder
