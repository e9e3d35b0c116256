"""Sizes that follow from a configuration, and contradictions that are refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from labkit.model.cache import KVCache
from labkit.model.config import ModelConfig, MoeConfig
from labkit.model.minillm import MiniLLM


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"num_layers": 5},
        {"num_kv_heads": 6},
        {"num_kv_heads": 1, "sliding_window": 7},
        {"head_width": 10},
        {"norm": "layer"},
        {"norm_position": "post"},
        {"norm": "layer", "norm_position": "post"},
        {"moe": MoeConfig(num_experts=5, top_k=2)},
        {"moe": MoeConfig(num_experts=3, top_k=1, capacity_factor=2.0), "norm": "layer"},
    ],
)
def test_parameter_formula_counts_the_model(
    tiny_config: ModelConfig, change: dict[str, Any], tied: bool
) -> None:
    config = replace(tiny_config, tie_embeddings=tied, **change)
    assert config.num_parameters == sum(p.numel() for p in MiniLLM(config).parameters())


def test_active_parameters_are_those_of_the_experts_a_token_meets(tiny_config: ModelConfig) -> None:
    assert tiny_config.num_active_parameters == tiny_config.num_parameters
    config = replace(tiny_config, moe=MoeConfig(num_experts=5, top_k=2))
    model = MiniLLM(config)
    for block in model.model.layers:
        del block.mlp.experts[2:]
    assert config.num_active_parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("preset", "count", "about"),
    [
        (ModelConfig.minillm_2m, 1_967_808, 2e6),
        (ModelConfig.minillm_10m, 10_228_608, 10e6),
        (ModelConfig.minillm_70m, 70_011_648, 70e6),
    ],
)
def test_presets_have_their_true_counts(
    preset: Callable[[], ModelConfig], count: int, about: float
) -> None:
    config = preset()
    with torch.device("meta"):
        model = MiniLLM(config)
    assert config.num_parameters == sum(p.numel() for p in model.parameters()) == count
    assert count == pytest.approx(about, rel=0.03)
    assert config.vocab_size == ModelConfig.mini().vocab_size


def test_known_sizes() -> None:
    assert ModelConfig.smollm2_135m().num_parameters == 134_515_008
    assert ModelConfig.mini().num_parameters * 2 < 8 * 1024**2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cache_bytes_are_those_allocated(tiny_config: ModelConfig, dtype: torch.dtype) -> None:
    cache = KVCache(tiny_config, batch_size=5, max_length=13, dtype=dtype)
    assert cache.nbytes == 5 * 13 * tiny_config.kv_bytes_per_token(dtype)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_kv_heads": 4}, "num_kv_heads=4 must divide num_heads=6"),
        ({"head_width": 5}, "head_width=5 must be even"),
        ({"num_layers": 0}, "num_layers=0 must be positive"),
        ({"norm_eps": 0.0}, "norm_eps=0.0 must be positive"),
        ({"sliding_window": 0}, "sliding_window=0 must be positive"),
        ({"norm": "batch"}, "norm='batch' must be 'rms' or 'layer'"),
        ({"norm_position": "middle"}, "norm_position='middle' must be 'pre' or 'post'"),
    ],
)
def test_contradictions_are_refused(
    tiny_config: ModelConfig, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        replace(tiny_config, **change)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_experts": 3, "top_k": 4}, "top_k=4 must lie between 1 and num_experts=3"),
        ({"num_experts": 3, "top_k": 0}, "top_k=0 must lie"),
        ({"num_experts": 3, "capacity_factor": 0.0}, "capacity_factor=0.0 must be positive"),
    ],
)
def test_experts_that_contradict_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MoeConfig(**settings)


def test_a_window_bounds_the_cache(tiny_config: ModelConfig) -> None:
    config = replace(tiny_config, sliding_window=7)
    cache = KVCache(config, batch_size=5, max_length=100)
    assert cache.nbytes == 5 * 7 * config.kv_bytes_per_token(torch.float32)
