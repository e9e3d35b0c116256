"""The KV cache: what it returns, what it refuses, and that it copies nothing."""

from dataclasses import replace

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


@pytest.fixture
def rolling(tiny_config: ModelConfig) -> KVCache:
    return KVCache(replace(tiny_config, sliding_window=5), batch_size=5, max_length=40)


@pytest.mark.parametrize(
    "steps", [(1,) * 13, (3, 1, 4, 1, 5), (7, 1, 1, 6), (5, 1, 5, 1), (12, 2), (4, 1, 1, 1)]
)
def test_a_window_returns_what_the_new_tokens_may_see(
    rolling: KVCache, gen: torch.Generator, steps: tuple[int, ...]
) -> None:
    whole = _rows(sum(steps), gen)
    for T in steps:
        start = rolling.length
        new = [part[:, :, start : start + T] for part in whole]
        for layer in (0, 2):
            got = rolling.append(layer, *new)
            positions = rolling.key_positions(T)
            assert torch.equal(got[0], whole[0][:, :, positions])
            assert torch.equal(got[1], whole[1][:, :, positions])
        seen = set(range(max(0, start + 1 - 5), start + T))
        assert seen <= set(positions.tolist())
        if T == 1:
            assert seen == set(positions.tolist()), "one token is given no mask"
        rolling.advance(T)


def test_a_window_never_grows(rolling: KVCache, gen: torch.Generator) -> None:
    start, size = rolling.keys.data_ptr(), rolling.nbytes
    for T in (6, 1, 1, 9, 1):
        rolling.append(1, *_rows(T, gen))
        rolling.advance(T)
    keys, _ = rolling.append(1, *_rows(1, gen))
    assert keys.data_ptr() == rolling.keys[1].data_ptr() == start + rolling.keys[0].nbytes
    assert (rolling.nbytes, rolling.rows, rolling.length) == (size, 5, 18)


def test_a_rolled_window_forgets_the_last_token_only(
    rolling: KVCache, gen: torch.Generator
) -> None:
    whole = _rows(9, gen)
    rolling.append(0, *whole)
    rolling.advance(9)
    with pytest.raises(ValueError, match="length=7: of 9 tokens the window keeps the last 5"):
        rolling.truncate(7)
    rolling.truncate(8)
    with pytest.raises(ValueError, match="length=7: of 9"):
        rolling.truncate(7)
    keys, _ = rolling.append(0, whole[0][:, :, 8:], whole[1][:, :, 8:])
    assert torch.equal(keys, whole[0][:, :, rolling.key_positions(1)])
    rolling.truncate(0)
    keys, _ = rolling.append(0, *_rows(3, gen))
    assert keys.shape[2] == 3
    rolling.advance(3)
    rolling.truncate(1)


def test_a_window_not_yet_full_forgets_as_any_cache(rolling: KVCache, gen: torch.Generator) -> None:
    rolling.append(0, *_rows(5, gen))
    rolling.advance(5)
    rolling.truncate(1)
    rolling.append(0, *_rows(3, gen))
    rolling.advance(3)
    rolling.truncate(2)
    assert rolling.length == 2
