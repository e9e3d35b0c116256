"""Each switch of the engine alone: variants of its executor in one process, one timed at a time."""

import ctypes
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.engines.teacher import save_logits
from benchmarks.engines.worker import serve
from labkit.inference.executors import Executor, ModuleExecutor
from labkit.inference.native.build import COMPILERS, FLAGS
from labkit.inference.native.ops import PackedLinear
from labkit.inference.native_executor import NativeExecutor
from labkit.inference.scheduler import Chunk, Sequence
from labkit.inference.step_batch import StepBatch, flatten
from labkit.model import zoo
from labkit.runtime.cache import atomic_path, cache_dir

PAGES, CONTEXT = 256, 96
BUFFER_BYTES = 2**29  # far more than any cache holds
MATRICES = ("qkv", "o", "gate_up", "down", "head")


class Switches:
    """Executors by name, all of the same weights.

    Args:
        model: Of `zoo.load`.
    """

    def __init__(self, model: str) -> None:
        self._name = model
        self._model = zoo.load(model, dtype="float32", device="cpu").model
        self._built: dict[str, Executor] = {}
        self._read: ctypes.CDLL | None = None

    def variants(self) -> list[str]:
        """From PyTorch's operations on, one switch after the other."""
        kept = [f"int8, but {name}" for name in MATRICES]
        by_torch = ["torch float32", "torch bfloat16", "torch bfloat16, compiled"]
        return [*by_torch, "bfloat16", "int8, all", *kept]

    def logits(self, variant: str, texts: list[list[int]], path: str, batch: int) -> None:
        save_logits(self._executor(variant), texts, path, batch)

    def step(self, variant: str, batch: int, steps: int) -> float:
        """Seconds of one decode step of the executor alone, without scheduler and sampling."""
        executor, rows = self._executor(variant), self._batch(batch)
        began = time.perf_counter()
        for _ in range(steps):
            executor.run(rows)
        return (time.perf_counter() - began) / steps

    def step_bytes(self, variant: str) -> int | None:
        """Bytes of weights that a step reads, and of keys and values for one sequence."""
        executor = self._executor(variant)
        if not isinstance(executor, NativeExecutor):
            return None
        return executor.nbytes + executor.cache.nbytes * CONTEXT // (PAGES * 16)

    def projections(self, bits: int, calls: int) -> dict[str, float]:
        """Seconds of Q, K and V (and gate and up) as one matrix each, and as five."""
        block: Any = self._model.model.layers[0]
        groups = [
            [block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj],
            [block.mlp.gate_proj, block.mlp.up_proj],
        ]
        alone = [PackedLinear(m.weight, bits=bits) for group in groups for m in group]
        joined = [PackedLinear(torch.cat([m.weight for m in g]), bits=bits) for g in groups]
        x = torch.randn(1, alone[0].in_features)
        return {"fused": _seconds(joined, x, calls), "alone": _seconds(alone, x, calls)}

    def bandwidth(self) -> float:
        """Bytes a second that all threads together read from memory, in order."""
        if self._read is None:
            self._read = ctypes.CDLL(str(_compiled()))
            self._read.read_all.restype = ctypes.c_uint64
            self._buffer = torch.ones(BUFFER_BYTES // 8, dtype=torch.int64)
        began = time.perf_counter()
        words = self._buffer.numel()
        total = self._read.read_all(ctypes.c_void_p(self._buffer.data_ptr()), ctypes.c_int64(words))
        assert total == words, total
        return BUFFER_BYTES / (time.perf_counter() - began)

    def _batch(self, size: int) -> StepBatch:
        """One token of each of `size` sequences, behind CONTEXT - 1 others."""
        width = CONTEXT // 16
        chunks = [Chunk(Sequence(i, [i + 1] * CONTEXT), CONTEXT - 1, 1) for i in range(size)]
        tables = [list(range(i * width, (i + 1) * width)) for i in range(size)]
        return flatten(chunks, tables, page_size=16, device=torch.device("cpu"))

    def _executor(self, variant: str) -> Executor:
        if variant not in self._built:
            self._built[variant] = self._build(variant)
        return self._built[variant]

    def _build(self, variant: str) -> Executor:
        if variant.startswith("torch "):
            dtype, _, compiled = variant.removeprefix("torch ").partition(", ")
            model = zoo.load(self._name, dtype=dtype, device="cpu").model
            return ModuleExecutor(model, num_pages=PAGES, page_size=16, compiled=bool(compiled))
        bits = 16 if variant == "bfloat16" else 8
        kept = [name for name in MATRICES if variant.endswith(f"but {name}")]
        return NativeExecutor(self._model, num_pages=PAGES, bits=bits, kept=kept)


def _seconds(linears: list[PackedLinear], x: torch.Tensor, calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        for linear in linears:
            linear(x)
    return (time.perf_counter() - began) / calls


def _compiled() -> Path:
    compiler = next(path for name in COMPILERS if (path := shutil.which(name)))
    with atomic_path(cache_dir() / "read.so") as path:
        source = Path(__file__).with_name("read.cpp")
        subprocess.run([compiler, *FLAGS, str(source), "-o", str(path)], check=True)
    return cache_dir() / "read.so"


if __name__ == "__main__":
    serve(Switches)
