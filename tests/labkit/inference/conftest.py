"""Models for the engine's tests, and the native kernels where the machine can run them."""

import pytest
import torch

from labkit.inference.native.build import NoKernelsError, library
from labkit.model.config import ModelConfig
from labkit.model.minillm import MiniLLM, initialise
from labkit.model.tokenizer import Tokenizer
from labkit.model.zoo import Loaded


@pytest.fixture(scope="session")
def native() -> None:
    """Skips on machines whose processor or tools cannot have the kernels, saying which."""
    try:
        library()
    except NoKernelsError as reason:
        pytest.skip(f"no native kernels: {reason}")


@pytest.fixture(scope="session")
def even_loaded(byte_tokenizer: Tokenizer) -> Loaded:
    """A random model whose sizes suit the kernels; groups of three heads, a ragged vocabulary."""
    config = ModelConfig(
        vocab_size=byte_tokenizer.vocab_size,
        width=48,
        num_layers=3,
        num_heads=6,
        num_kv_heads=2,
        head_width=16,
        ffn_width=80,
        max_length=190,
        norm_eps=1e-3,
        tie_embeddings=False,
    )
    model = MiniLLM(config)
    initialise(model, torch.Generator().manual_seed(8))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= 5  # far from uniform: argmax has a margin
            else:
                parameter += torch.rand(parameter.shape, generator=torch.Generator().manual_seed(9))
    return Loaded(model=model.eval(), tokenizer=byte_tokenizer, config=config, name="even")
