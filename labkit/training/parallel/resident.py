"""A process's own memory as the kernel counts it: what a stretch of code keeps, and its peak.

It sees whatever any framework allocates, in C++ and in other threads, too.
"""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of glibc's malloc.h


@dataclass(slots=True)
class Resident:
    """Bytes, relative to the start of the stretch; known after it.

    Attributes:
        held_bytes: in memory at its end and not at its start.
        peak_bytes: most that was in memory on top of the start.
    """

    held_bytes: int = 0
    peak_bytes: int = 0


@contextmanager
def measured() -> Iterator[Resident]:
    """`with measured() as memory: ...`; read `memory` afterwards.

    Let the same code run once before, so that what is loaded on first use does not count. From the
    first call on, this process gives freed blocks of 64 KiB and more back at once, which is slower.

    Raises:
        OSError: the system is not Linux.
    """
    if sys.platform != "linux":
        raise OSError(f"{sys.platform} has no /proc that says what a process holds: Linux has")
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, 64 * 1024)
    gc.collect()
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start = _status()
    result = Resident()
    yield result
    gc.collect()
    libc.malloc_trim(0)
    end = _status()
    result.held_bytes = end["RssAnon"] - start["RssAnon"]
    result.peak_bytes = end["VmHWM"] - start["VmRSS"]


def _status() -> dict[str, int]:
    """Sizes in /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = (line.split() for line in lines if line.endswith("kB"))
    return {name.rstrip(":"): 1024 * int(size) for name, size, _ in fields}
