"""labkit's pages and scheduler in the shapes that lab 10's exercises ask for."""

from typing import Any

import torch
from torch import Tensor

from labkit.inference.int8_cache import Int8PagedCache
from labkit.inference.paged_cache import PagedCache, paged_attention
from labkit.inference.paging import BlockManager, OutOfPagesError
from labkit.inference.scheduler import Scheduler, Sequence
from labkit.inference.step_batch import StepBatch
from labkit.model.config import ModelConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def page_bill(
    config: Any,
    page_size: int,
    kv: str,
    memory_bytes: int,
    mean_length: float,
    length: int,
    shared: int,
) -> tuple[int, float, int]:
    """A page is weighed, the waste summed over lengths, the batch built until pages run out."""
    shape = _shape(config.num_layers, config.num_kv_heads, config.head_width)
    if kv == "int8":
        page: PagedCache = Int8PagedCache(shape, num_pages=1, page_size=page_size)
    else:
        page = PagedCache(shape, num_pages=1, page_size=page_size, dtype=DTYPES[kv])
    stop = 1 / mean_length
    blocks = BlockManager(max(1, memory_bytes // page.nbytes), page_size)
    waste = sum(
        stop * (1 - stop) ** (s - 1) * (blocks.pages_for(s) * page_size - s)
        for s in range(1, int(40 * mean_length) + 2)
    )
    batch = 0
    if memory_bytes >= page.nbytes:
        while _fits(blocks, batch, [0] * shared + [batch + 1] * (length - shared)):
            batch += 1
    return page.nbytes, waste, batch


def _shape(L: int, G: int, K: int) -> ModelConfig:
    """A model of which only the cache matters."""
    return ModelConfig(
        vocab_size=1,
        width=G * K,
        num_layers=L,
        num_heads=G,
        num_kv_heads=G,
        head_width=K,
        ffn_width=1,
    )


def _fits(blocks: BlockManager, key: int, tokens: list[int]) -> bool:
    """Open one more sequence, if there is room; the common beginning is shared."""
    blocks.begin(key, tokens)
    try:
        blocks.reserve(key, len(tokens))
    except OutOfPagesError:
        return False
    blocks.fill(key, tokens, len(tokens))
    return True


class PageManager:
    """labkit's manager, with tokens that only count."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self._blocks = BlockManager(num_pages, page_size, prefix_cache=False)
        self._lengths: dict[int, int] = {}

    @property
    def free_pages(self) -> int:
        return self._blocks.free_pages

    def table(self, key: int) -> list[int]:
        return list(self._blocks.table(key))

    def begin(self, key: int) -> None:
        self._blocks.begin(key, [])
        self._lengths[key] = 0

    def append(self, key: int, count: int) -> list[tuple[int, int]]:
        length = self._lengths[key] + count
        try:
            copies = self._blocks.reserve(key, length)
        except OutOfPagesError as error:
            raise MemoryError(str(error)) from None
        self._blocks.fill(key, [], length)
        self._lengths[key] = length
        return [(copy.source, copy.to) for copy in copies]

    def fork(self, parent: int, child: int) -> None:
        self._blocks.fork(parent, child)
        self._lengths[child] = self._lengths[parent]

    def truncate(self, key: int, length: int) -> None:
        self._blocks.truncate(key, length)
        self._lengths[key] = length

    def end(self, key: int) -> None:
        self._blocks.end(key)
        del self._lengths[key]


class PrefixCache:
    """labkit's manager, whose requests are computed as soon as they are opened."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self._blocks = BlockManager(num_pages, page_size)

    def open(self, key: int, tokens: list[int], adapter: int = 0) -> tuple[int, list[int]]:
        cached = self._blocks.begin(key, tokens, salt=adapter.to_bytes(8, "little"))
        copies = self._blocks.reserve(key, len(tokens))
        assert not copies
        self._blocks.fill(key, tokens, len(tokens))
        return cached, list(self._blocks.table(key))

    def close(self, key: int) -> None:
        self._blocks.end(key)


def paged_decode(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    tables: Tensor,
    lengths: Tensor,
    window: int | None = None,
) -> Tensor:
    """labkit's attention over its own layout, with zeros where nobody wrote."""
    P, page_size, G, K = k_pages.shape
    cache = PagedCache(_shape(1, G, K), num_pages=P, page_size=page_size)
    clean = [pages.float().nan_to_num(0.0, 0.0, 0.0) for pages in (k_pages, v_pages)]
    cache.keys[0] = clean[0].permute(0, 2, 3, 1)
    cache.values[0] = clean[1].permute(0, 2, 1, 3)
    rows = torch.arange(len(q))
    batch = StepBatch(
        ids=rows,
        positions=lengths - 1,
        places=rows,
        rows=rows,
        tables=tables.clamp(min=0),
        starts=list(range(len(q) + 1)),
        last=rows,
    )
    return paged_attention(q, cache, 0, batch, window)


class StepScheduler:
    """labkit's scheduler, which also appends and ends."""

    def __init__(self, num_pages: int, page_size: int, token_budget: int, max_batch: int) -> None:
        self._blocks = BlockManager(num_pages, page_size, prefix_cache=False)
        self._scheduler = Scheduler(self._blocks, token_budget=token_budget, max_batch=max_batch)
        self._ends: dict[int, int] = {}

    @property
    def free_pages(self) -> int:
        return self._blocks.free_pages

    def add(self, key: int, prompt: list[int], most_new: int, priority: int = 0) -> None:
        self._scheduler.add(Sequence(key, list(prompt), priority=priority))
        self._ends[key] = len(prompt) + most_new

    def plan(self) -> tuple[list[tuple[int, int, list[int]]], list[int]]:
        self._plan = self._scheduler.plan()
        chunks = [
            (c.sequence.key, c.start, c.sequence.tokens[c.start : c.start + c.count])
            for c in self._plan.chunks
        ]
        return chunks, [sequence.key for sequence in self._plan.preempted]

    def finish(self, chosen: dict[int, int]) -> list[int]:
        self._scheduler.advance(self._plan)
        done = []
        for key, token in chosen.items():
            tokens = self._scheduler.running[key].tokens
            tokens.append(token)
            if len(tokens) == self._ends[key]:
                self._scheduler.remove(key)
                done.append(key)
        return done

    def abort(self, key: int) -> None:
        self._scheduler.remove(key)


def diagnose(replay: Any, num_pages: int, page_size: int) -> str:
    """Runs that a healthy manager answers in one way only."""
    p = page_size
    first, second = list(range(1, p + 1)), list(range(11, 11 + p))
    replies = replay([("write", 0, [*first, *second]), ("write", 1, second), ("read", 1)])
    if replies[-1] != _sums(second):
        return "flat_digest"
    replies = replay(
        [("write", 0, [1]), ("fork", 0, 1), ("end", 0), ("write", 2, [5]), ("read", 1)]
    )
    if replies[-1] != [1]:
        return "early_free"
    fork = [("write", 0, [1]), ("fork", 0, 1), ("write", 1, [2]), ("write", 0, [3])]
    replies = replay([*fork, ("read", 1), ("end", 0), ("end", 1)])
    if replies[-3] != [1, 3]:
        return "no_copy"
    return "healthy" if replies[-1] == num_pages else "copy_leak"


def _sums(tokens: list[int]) -> list[int]:
    return [sum(tokens[: t + 1]) for t in range(len(tokens))]


IMPLEMENTATIONS: dict[str, Any] = {
    "page_bill": page_bill,
    "page_manager": PageManager,
    "prefix_cache": PrefixCache,
    "paged_decode": paged_decode,
    "step_scheduler": StepScheduler,
    "diagnose": diagnose,
}
