"""Sizes that follow from a configuration, and contradictions that are refused."""

from dataclasses import replace

import pytest
import torch

from labkit.model.cache import KVCache
from labkit.model.config import ModelConfig
from labkit.model.minillm import MiniLLM


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("change", [{}, {"num_layers": 5}, {"num_kv_heads": 6}, {"head_width": 10}])
def test_parameter_formula_counts_the_model(
    tiny_config: ModelConfig, change: dict[str, int], tied: bool
) -> None:
    config = replace(tiny_config, tie_embeddings=tied, **change)
    assert config.num_parameters == sum(p.numel() for p in MiniLLM(config).parameters())


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
    ],
)
def test_contradictions_are_refused(
    tiny_config: ModelConfig, change: dict[str, float], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        replace(tiny_config, **change)
