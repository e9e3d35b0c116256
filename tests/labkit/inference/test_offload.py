"""Cold pages: what comes back is what went out, or nothing."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from labkit.inference.executors import ModuleExecutor
from labkit.inference.int8_cache import KVFormat, build_cache
from labkit.inference.offload import ColdStore, FileSlots, MemorySlots, loading_gain
from labkit.inference.paged_cache import PagedCache
from labkit.inference.paging import BlockManager
from labkit.model.config import ModelConfig
from labkit.model.zoo import Loaded
from tests.labkit.inference.steps import run

CONFIG = ModelConfig(
    vocab_size=5, width=12, num_layers=3, num_heads=6, num_kv_heads=2, head_width=10, ffn_width=8
)
PAGES = 5


def filled_cache(kv: KVFormat = "int8", dtype: torch.dtype = torch.bfloat16) -> PagedCache:
    """Every number of every part differs from page to page."""
    cache = build_cache(CONFIG, kv=kv, num_pages=PAGES, page_size=7, dtype=dtype)
    for seed, part in enumerate(cache.parts):
        generator = torch.Generator().manual_seed(seed)
        part.copy_(torch.randint(-120, 120, part.shape, generator=generator))
    return cache


def contents(cache: PagedCache) -> list[Tensor]:
    return [part.clone() for part in cache.parts]


@pytest.fixture(params=["memory", "file"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path if request.param == "file" else None


@pytest.mark.parametrize(
    ("kv", "dtype"),
    [("int8", torch.float32), ("model", torch.bfloat16), ("model", torch.float32)],
)
def test_a_page_comes_back_into_another_place_and_leaves_the_rest_alone(
    kv: KVFormat, dtype: torch.dtype, folder: Path | None
) -> None:
    cache = filled_cache(kv, dtype)
    store = ColdStore(cache, capacity=3, folder=folder)
    before = contents(cache)
    store.store(b"two", 2)
    store.store(b"four", 4)
    for part in cache.parts:
        part[:, 2] = 1
        part[:, 4] = 2
    assert store.load(b"two", 0)
    assert store.load(b"four", 4)
    for part, was in zip(cache.parts, before, strict=True):
        assert torch.equal(part[:, 0], was[:, 2])
        assert torch.equal(part[:, 4], was[:, 4])
        assert torch.equal(part[:, [1, 3]], was[:, [1, 3]])
        assert (part[:, 2] == 1).all()
    assert store.page_bytes * PAGES == cache.nbytes
    assert store.counts.load_bytes == 2 * store.page_bytes
    assert store.counts.load_bandwidth > 0
    store.check_integrity()


def test_the_page_asked_for_longest_ago_makes_room(folder: Path | None) -> None:
    store = ColdStore(filled_cache(), capacity=3, folder=folder)
    for page, name in enumerate((b"a", b"b", b"c")):
        store.store(name, page)
    store.store(b"a", 0)  # it is here already: nothing is written
    assert store.counts.stored == 3
    assert store.touch(b"b")
    store.store(b"d", 3)
    store.store(b"e", 4)
    assert [store.load(name, 0) for name in (b"a", b"b", b"c")] == [False, True, False]
    assert len(store) == 2
    assert not store.load(b"b", 0)  # it was moved, not copied
    store.store(b"f", 1)
    assert [store.load(name, 0) for name in (b"d", b"e", b"f")] == [True] * 3
    store.check_integrity()


def test_a_damaged_page_is_not_found_and_changes_nothing(folder: Path | None) -> None:
    cache = filled_cache()
    store = ColdStore(cache, capacity=2, folder=folder)
    store.store(b"good", 1)
    store.store(b"bad", 2)
    slot = store._kept[b"bad"][0]
    at = slot * store.page_bytes + store.page_bytes - 1  # one bit of the last byte
    if folder is None:
        cast(MemorySlots, store.slots).rows.view(-1)[at] ^= 1
    else:
        descriptor = cast(FileSlots, store.slots).file.fileno()
        [byte] = os.pread(descriptor, 1, at)
        os.pwrite(descriptor, bytes([byte ^ 1]), at)
    before = contents(cache)
    assert not store.load(b"bad", 0)
    assert all(map(torch.equal, cache.parts, before))
    assert (store.counts.damaged, store.counts.loaded) == (1, 0)
    assert not store.touch(b"bad")
    assert store.load(b"good", 0)
    store.check_integrity()
    store.store(b"bad", 2)  # its slot is used again
    assert store.load(b"bad", 3)


def test_a_file_that_was_cut_short_is_a_miss(tmp_path: Path) -> None:
    cache = filled_cache()
    store = ColdStore(cache, capacity=2, folder=tmp_path)
    store.store(b"a", 1)
    store.store(b"b", 2)
    os.ftruncate(cast(FileSlots, store.slots).file.fileno(), store.page_bytes + 10)
    before = contents(cache)
    survivor = 1 + [store.load(name, 0) for name in (b"a", b"b")].index(True)
    for part, was in zip(cache.parts, before, strict=True):
        assert torch.equal(part[:, 0], was[:, survivor])
    assert (store.counts.failed, store.counts.loaded) == (1, 1)
    store.store(b"c", 3)
    assert store.load(b"c", 4)
    store.check_integrity()


@contextmanager
def files_of_at_most(nbytes: int) -> Iterator[None]:
    """The system refuses to let a file grow beyond, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_folder_without_room_is_refused_at_once(tmp_path: Path) -> None:
    cache = filled_cache()
    with (
        files_of_at_most(cache.nbytes),
        pytest.raises(OSError, match=r"6 cold pages of 1,176 bytes do not fit: .*" + tmp_path.name),
    ):
        ColdStore(cache, capacity=6, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        ColdStore(cache, capacity=6, folder=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="capacity=0"):
        ColdStore(cache, capacity=0)


@pytest.mark.parametrize("room", [0, 500])  # nothing can be written, or half a page
def test_a_page_that_cannot_be_written_is_lost_and_nothing_else(tmp_path: Path, room: int) -> None:
    store = ColdStore(filled_cache(), capacity=1, folder=tmp_path)
    os.ftruncate(cast(FileSlots, store.slots).file.fileno(), 0)
    with files_of_at_most(room):
        store.store(b"a", 1)
    assert not store.touch(b"a")
    assert store.counts.failed == 1
    store.check_integrity()
    store.store(b"a", 1)
    assert store.load(b"a", 2)


def test_the_file_leaves_no_name_behind(tmp_path: Path) -> None:
    store = ColdStore(filled_cache(), capacity=2, folder=tmp_path)
    store.store(b"a", 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kv", ["model", "int8"])
def test_a_prompt_whose_pages_went_cold_is_answered_as_if_they_were_hot(
    kv: KVFormat, byte_loaded: Loaded, folder: Path | None
) -> None:
    executor = ModuleExecutor(byte_loaded.model, num_pages=6, page_size=5, kv=kv)
    store = ColdStore(executor.cache, capacity=6, folder=folder)
    blocks = BlockManager(6, 5, cold=store)

    def logits(key: int, tokens: list[int]) -> tuple[int, Tensor]:
        found = blocks.begin(key, tokens)
        executor.cache.copy(blocks.reserve(key, len(tokens)))
        out = run(executor, [tokens[found:]], past=[found], tables=[blocks.table(key)])
        blocks.fill(key, tokens, len(tokens))
        blocks.end(key)
        blocks.check_integrity()
        return found, out

    prompt = list(range(60, 83))
    assert logits(1, prompt)[0] == 0
    hot = logits(2, prompt)
    assert logits(3, list(range(120, 150)))[0] == 0  # takes every page
    cold = logits(4, prompt)
    assert hot[0] == cold[0] == 20
    assert store.counts.loaded == 4
    assert torch.equal(hot[1], cold[1])


def test_loading_pays_where_bytes_arrive_faster_than_tokens_are_computed() -> None:
    slow = loading_gain(
        tokens=100, nbytes=100 * 23_040, bandwidth_bytes_s=23.04e6, prefill_tokens_s=2e3
    )
    assert slow == pytest.approx(0.5)  # 0.1 s to load, 0.05 s to compute
    fast = loading_gain(
        tokens=100, nbytes=100 * 23_040, bandwidth_bytes_s=2.304e9, prefill_tokens_s=2e3
    )
    assert fast == pytest.approx(50)
    with pytest.raises(ValueError, match="must be positive, not"):
        loading_gain(tokens=0, nbytes=1, bandwidth_bytes_s=1.0, prefill_tokens_s=1.0)
