"""An engine's sizes, and the parts that follow from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from labkit.inference.adapters.bank import AdapterBank
from labkit.inference.executors import Executor, ModuleExecutor
from labkit.inference.int8_cache import KVFormat
from labkit.inference.native.ops import LANES
from labkit.inference.native_executor import NativeExecutor
from labkit.inference.offload import ColdStore
from labkit.inference.paged_cache import PagedCache
from labkit.model.minillm import MiniLLM

DEFAULT_PAGES = 1024
Weights = Literal["model", "bfloat16", "int8"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """How much runs at once, and on what.

    Attributes:
        max_batch: Most requests under way; others wait.
        token_budget: Most tokens in one step; longer prompts are run in chunks.
        num_pages: Pages of keys and values; None: for `max_batch` whole contexts, but no more than
            1,024 pages, unless one context needs more.
        page_size: Tokens a page holds.
        prefix_cache: Whether prompts that begin alike share their pages.
        weights: "model" runs the model's own modules; "bfloat16" and "int8" pack its weights for
            the native kernels (a CPU with AVX-512 and a compiler).
        compiled: Whether TorchInductor compiles the model's own modules; not with adapters.
        kv: "model" keeps keys and values in the model's type (bfloat16 beside packed weights),
            "int8" in half of bfloat16's bytes.
        cold_pages: Pages that are kept beyond the cache once it gives them away; 0 forgets them.
        cold_folder: Where they lie, in a file without a name; None: in CPU memory.
        max_adapters: LoRA adapters that can be mounted at a time; 0 for none.
        max_rank: Largest rank of theirs.
    """

    max_batch: int = 32
    token_budget: int = 512
    num_pages: int | None = None
    page_size: int = LANES
    prefix_cache: bool = True
    weights: Weights = "model"
    compiled: bool = False
    kv: KVFormat = "model"
    cold_pages: int = 0
    cold_folder: Path | None = None
    max_adapters: int = 0
    max_rank: int = 64

    def __post_init__(self) -> None:
        if self.weights != "model" and self.page_size != LANES:
            raise ValueError(
                f"page_size={self.page_size}: the native kernels take pages of {LANES}"
            )
        if self.compiled and (self.weights != "model" or self.max_adapters):
            raise ValueError(
                f"compiled=True with weights={self.weights!r} and max_adapters={self.max_adapters}:"
                " only the model's own modules are compiled, without adapters"
            )
        if self.cold_pages < 0 or (self.cold_pages and not self.prefix_cache):
            raise ValueError(
                f"cold_pages={self.cold_pages} must be >= 0, and need prefix_cache=True: pages are "
                "found by their prefix"
            )


def num_pages(config: EngineConfig, max_length: int) -> int:
    """P, as asked for or by default."""
    if config.num_pages is not None:
        return config.num_pages
    context = -(-max_length // config.page_size)
    return max(context, min(config.max_batch * context, DEFAULT_PAGES))


def build_cold(cache: PagedCache, config: EngineConfig) -> ColdStore | None:
    """Where pages go that the cache gives away."""
    if not config.cold_pages:
        return None
    return ColdStore(cache, capacity=config.cold_pages, folder=config.cold_folder)


def build_bank(model: MiniLLM, config: EngineConfig) -> AdapterBank | None:
    """Room for adapters, if the configuration has any; float32 beside packed weights."""
    if not config.max_adapters:
        return None
    embedding = model.model.embed_tokens.weight
    return AdapterBank(
        model.config,
        dtype=embedding.dtype if config.weights == "model" else torch.float32,
        device=embedding.device,
        max_rank=config.max_rank,
        max_adapters=config.max_adapters,
    )


def build_executor(
    model: MiniLLM, config: EngineConfig, pages: int, bank: AdapterBank | None
) -> Executor:
    """What runs the steps; raises as the executors do."""
    if config.weights == "model":
        return ModuleExecutor(
            model,
            num_pages=pages,
            page_size=config.page_size,
            bank=bank,
            kv=config.kv,
            compiled=config.compiled,
        )
    bits = {"bfloat16": 16, "int8": 8}[config.weights]
    return NativeExecutor(model, num_pages=pages, bits=bits, bank=bank, kv=config.kv)
