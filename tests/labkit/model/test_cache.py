"""The KV cache: what it returns, what it refuses, and that it copies nothing."""

import pytest
import torch

from labkit.model.cache import KVCache
from labkit.model.config import ModelConfig


@pytest.fixture
def cache(tiny_config: ModelConfig) -> KVCache:
    return KVCache(tiny_config, batch_size=5, max_length=13)


def _rows(T: int, gen: torch.Generator, B: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    k, v = torch.randn(2, B, 2, T, 4, generator=gen)
    return k, v


def test_append_returns_everything_so_far(cache: KVCache, gen: torch.Generator) -> None:
    parts = []
    for T in (7, 1, 3):
        parts.append(_rows(T, gen))
        for layer in range(3):
            keys, values = cache.append(layer, *parts[-1])
        cache.advance(T)
    assert cache.length == 11
    assert torch.equal(keys, torch.cat([k for k, _ in parts], 2))
    assert torch.equal(values, torch.cat([v for _, v in parts], 2))


def test_append_gives_views_of_one_allocation(cache: KVCache, gen: torch.Generator) -> None:
    start = cache.keys.data_ptr()
    for _ in range(4):
        keys, _ = cache.append(0, *_rows(1, gen))
        cache.advance(1)
        assert keys.data_ptr() == start == cache.keys.data_ptr()


def test_truncated_room_is_used_again(cache: KVCache, gen: torch.Generator) -> None:
    first, second = _rows(6, gen), _rows(2, gen)
    cache.append(1, *first)
    cache.advance(6)
    cache.truncate(4)
    keys, _ = cache.append(1, *second)
    assert torch.equal(keys, torch.cat([first[0][:, :, :4], second[0]], 2))


def test_refusals_name_the_values(cache: KVCache, gen: torch.Generator) -> None:
    with pytest.raises(ValueError, match="0 cached \\+ 14 new tokens exceed max_length=13"):
        cache.append(0, *_rows(14, gen))
    with pytest.raises(ValueError, match="batch_size=5, the step has B=3"):
        cache.append(0, *_rows(2, gen, B=3))
    with pytest.raises(ValueError, match="length=1 must lie in"):
        cache.truncate(1)
    with pytest.raises(ValueError, match="exceeds max_length=13"):
        cache.advance(14)
    k, v = _rows(2, gen)
    with pytest.raises(ValueError, match="no_grad"):
        cache.append(0, k.requires_grad_(), v)


def test_empty_cache_is_refused(tiny_config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="batch_size=0"):
        KVCache(tiny_config, batch_size=0, max_length=3)
