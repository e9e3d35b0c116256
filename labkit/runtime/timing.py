"""Seconds and bytes: a stopwatch, repeated and interleaved measurements, peak memory."""

import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

_SAMPLE_SECONDS = 0.002


@dataclass
class Stopwatch:
    """Seconds since the block began; fixed once it has ended."""

    _start: float = field(default_factory=time.perf_counter)
    _stop: float | None = None

    @property
    def seconds(self) -> float:
        return (time.perf_counter() if self._stop is None else self._stop) - self._start


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Wall-clock samples of one function, in seconds, in the order they were taken."""

    samples_s: tuple[float, ...]

    @property
    def median_s(self) -> float:
        return statistics.median(self.samples_s)

    @property
    def min_s(self) -> float:
        return min(self.samples_s)


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Times a block: `with stopwatch() as watch: ...; watch.seconds`."""
    synchronise()
    watch = Stopwatch()
    try:
        yield watch
    finally:
        synchronise()
        watch._stop = time.perf_counter()


def measure(fn: Callable[[], object], *, warmup: int = 1, repeats: int = 5) -> Timing:
    """Calls `fn` `warmup` times unseen, then `repeats` times under the clock."""
    return interleave({"fn": fn}, repeats, warmup=warmup)["fn"]


def interleave(
    fns: Mapping[str, Callable[[], object]], repeats: int = 5, *, warmup: int = 1
) -> dict[str, Timing]:
    """Times rivals in turn (a b c, a b c, ...), so that a drifting machine hits all alike.

    Raises:
        ValueError: `repeats` is below 1 or `warmup` below 0.
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats={repeats} must be at least 1 and warmup={warmup} at least 0")
    for _ in range(warmup):
        for fn in fns.values():
            fn()
    samples: dict[str, list[float]] = {name: [] for name in fns}
    for _ in range(repeats):
        for name, fn in fns.items():
            with stopwatch() as watch:
                fn()
            samples[name].append(watch.seconds)
    return {name: Timing(samples_s=tuple(values)) for name, values in samples.items()}


def synchronise() -> None:
    """Waits for queued CUDA work, which would otherwise be timed by whoever comes next."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


@dataclass
class PeakMemory:
    """`peak_bytes`: high-water mark of the block; `start_bytes`: what was in use before it."""

    start_bytes: int = 0
    peak_bytes: int = 0


@contextmanager
def track_memory(device: torch.device | None = None) -> Iterator[PeakMemory]:
    """Peak memory of a block: CUDA's allocator on a GPU, else resident memory of the process.

    Resident memory is sampled every 2 ms by a thread: a shorter spike can be missed.
    """
    if device is not None and device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        memory = PeakMemory(start_bytes=torch.cuda.memory_allocated(device))
        try:
            yield memory
        finally:
            memory.peak_bytes = torch.cuda.max_memory_allocated(device)
        return
    with _sampled_resident_memory() as memory:
        yield memory


@contextmanager
def _sampled_resident_memory() -> Iterator[PeakMemory]:
    memory = PeakMemory(start_bytes=resident_bytes(), peak_bytes=resident_bytes())
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(_SAMPLE_SECONDS):
            memory.peak_bytes = max(memory.peak_bytes, resident_bytes())

    thread = threading.Thread(target=sample, name="memory-sampler", daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        stop.set()
        thread.join()
        memory.peak_bytes = max(memory.peak_bytes, resident_bytes())


def resident_bytes() -> int:
    """Resident memory of this process now; where Linux's /proc is absent, its peak so far."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource  # absent on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
