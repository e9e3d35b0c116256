"""Fixtures shared by every test: the real model, mini, a tiny random model, generators."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from labkit.model import minillm, zoo
    from labkit.model.config import ModelConfig


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def gen() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def tiny_config() -> "ModelConfig":
    """Dimensions all different and none a power of two: no axis can stand in for another."""
    from labkit.model.config import ModelConfig

    return ModelConfig(
        vocab_size=97,
        width=24,
        num_layers=3,
        num_heads=6,
        num_kv_heads=2,
        head_width=4,
        ffn_width=40,
        max_length=120,
    )


@pytest.fixture
def tiny_model(tiny_config: "ModelConfig") -> "minillm.MiniLLM":
    from labkit.model import minillm

    model = minillm.MiniLLM(tiny_config)
    minillm.initialise(model, torch.Generator().manual_seed(7))
    return model.eval()


@pytest.fixture(scope="session")
def smollm2() -> "zoo.Loaded":
    """The real model in float32, loaded once; a test that changes it must work on a copy."""
    from labkit.model import zoo

    return zoo.load("smollm2-135m", dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def mini() -> "zoo.Loaded":
    from labkit.model import zoo

    return zoo.load("mini", dtype="float32", device="cpu")
