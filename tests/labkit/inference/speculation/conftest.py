"""Small random models that disagree often and agree often: targets and drafts."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from labkit.model import minillm, zoo
from labkit.model.config import ModelConfig
from labkit.model.minillm import MiniLLM


def random_model(config: ModelConfig, seed: int, *, scale: float = 7.0) -> MiniLLM:
    model = MiniLLM(config)
    minillm.initialise(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= scale if parameter.ndim > 1 else 1  # far from uniform
    return model.eval()


def blend(target: MiniLLM, other: MiniLLM, share: float) -> MiniLLM:
    """A draft between two models: the more of the target, the oftener they agree."""
    draft = MiniLLM(target.config)
    own, foreign = target.state_dict(), other.state_dict()
    draft.load_state_dict({name: own[name].lerp(foreign[name], share) for name in own})
    return draft.eval()


@pytest.fixture(scope="session")
def byte_draft(byte_loaded: zoo.Loaded) -> MiniLLM:
    """A draft for the model over bytes that is right about half the time, with another cache."""
    config = byte_loaded.config
    other = random_model(config, seed=8)
    return blend(byte_loaded.model, other, 0.12)


@pytest.fixture(scope="session")
def six_config() -> ModelConfig:
    """Six tokens, so that all texts of three tokens can be enumerated."""
    return ModelConfig(
        vocab_size=6,
        width=8,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_width=4,
        ffn_width=12,
        max_length=24,
        tie_embeddings=False,
    )


@pytest.fixture(scope="session")
def six(six_config: ModelConfig) -> MiniLLM:
    return random_model(six_config, seed=1, scale=14.0)


@pytest.fixture(scope="session")
def six_draft(six: MiniLLM, six_config: ModelConfig) -> MiniLLM:
    return blend(six, random_model(six_config, seed=2, scale=14.0), 0.3)


@pytest.fixture(scope="session")
def windowed() -> Callable[[ModelConfig, int], MiniLLM]:
    def windowed(config: ModelConfig, window: int) -> MiniLLM:
        return random_model(replace(config, sliding_window=window), seed=3)

    return windowed
