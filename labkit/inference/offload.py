"""Cold pages: keys and values that the cache gave up, kept in CPU memory or in a file."""

import logging
import os
import tempfile
import time
import weakref
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import UInt8
from torch import Tensor

from labkit.inference.paged_cache import PagedCache

log = logging.getLogger(__name__)


@runtime_checkable
class Slots(Protocol):
    """Room for `capacity` pages of equal size; OSError where one cannot be written or read."""

    def write(self, slot: int, content: UInt8[Tensor, " bytes"]) -> None: ...

    def read(self, slot: int, content: UInt8[Tensor, " bytes"]) -> None: ...


class MemorySlots:
    """CPU memory, all of it taken at once: for pages that lie on a GPU."""

    def __init__(self, capacity: int, page_bytes: int) -> None:
        self.rows = torch.zeros((capacity, page_bytes), dtype=torch.uint8)

    def write(self, slot: int, content: UInt8[Tensor, " bytes"]) -> None:
        self.rows[slot] = content

    def read(self, slot: int, content: UInt8[Tensor, " bytes"]) -> None:
        content.copy_(self.rows[slot])


class FileSlots:
    """A file without a name: gone with this object, or with the process, however that ends.

    Read and written by offset: to touch a memory-mapped file that was cut short, or that lies on a
    full disk, would kill the process, where these calls fail. What was read lately comes from the
    system's page cache either way.

    Raises:
        OSError: the folder cannot take that many bytes; they are reserved at once.
    """

    def __init__(self, capacity: int, page_bytes: int, folder: Path) -> None:
        self.file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        weakref.finalize(self, self.file.close)
        self._page_bytes = page_bytes
        try:
            os.posix_fallocate(self.file.fileno(), 0, capacity * page_bytes)
        except OSError as error:
            text = f"{capacity} cold pages of {page_bytes:,} bytes do not fit: {error.strerror}"
            raise OSError(error.errno, text, str(folder)) from error

    def write(self, slot: int, content: UInt8[Tensor, " bytes"]) -> None:
        done = os.pwrite(self.file.fileno(), content.numpy().data, slot * self._page_bytes)
        self._check(done, "written")

    def read(self, slot: int, content: UInt8[Tensor, " bytes"]) -> None:
        done = os.preadv(self.file.fileno(), [content.numpy().data], slot * self._page_bytes)
        self._check(done, "read")

    def _check(self, done: int, what: str) -> None:
        if done != self._page_bytes:
            raise OSError(f"{done} of {self._page_bytes} bytes {what}")


@dataclass(slots=True)
class ColdCounts:
    """What a store has done: pages, bytes and seconds.

    Attributes:
        stored, loaded: pages that went out and came back.
        failed: pages that could not be written or read.
        damaged: pages that were not what had been written; they count as not found.
        load_bytes, load_seconds: of the loaded pages.
        store_seconds: of the stored pages, which have page_bytes each.
    """

    stored: int = 0
    loaded: int = 0
    failed: int = 0
    damaged: int = 0
    load_bytes: int = 0
    load_seconds: float = 0.0
    store_seconds: float = 0.0

    @property
    def load_bandwidth(self) -> float:
        """Bytes a second, as measured so far; 0 before the first page."""
        return self.load_bytes / self.load_seconds if self.loaded else 0.0


class ColdStore:
    """Copies of whole pages by their digest; the one asked for longest ago makes room for the next.

    It is the `ColdPages` of a `BlockManager`: a page lies there or here, so that both together hold
    num_pages + capacity. A page that cannot be written, read or trusted is not found: its tokens
    are computed again. A page takes as many bytes here as in the cache.

    Args:
        cache: whose pages are kept.
        capacity: pages there is room for.
        folder: where the file lies; None: in CPU memory.

    Raises:
        OSError: the folder has no room for them.
    """

    def __init__(self, cache: PagedCache, *, capacity: int, folder: Path | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"capacity={capacity} cold pages must be >= 1")
        self._parts = cache.parts
        self.page_bytes = cache.nbytes // cache.keys.shape[1]
        self._content = torch.zeros(self.page_bytes, dtype=torch.uint8)
        self._views = _views(self._content, self._parts)
        self.slots: Slots = (
            MemorySlots(capacity, self.page_bytes)
            if folder is None
            else FileSlots(capacity, self.page_bytes, folder)
        )
        self._capacity = capacity
        self._free = list(range(capacity))
        self._kept: OrderedDict[bytes, tuple[int, int]] = OrderedDict()  # slot and checksum
        self.counts = ColdCounts()

    def __len__(self) -> int:
        return len(self._kept)

    def touch(self, digest: bytes) -> bool:
        """Whether a page is here; it is then the last to make room."""
        if digest in self._kept:
            self._kept.move_to_end(digest)
        return digest in self._kept

    def store(self, digest: bytes, page: int) -> None:
        """Copy a page out, unless its content is here already."""
        if self.touch(digest):
            return
        began = time.perf_counter()
        for view, part in zip(self._views, self._parts, strict=True):
            view.copy_(part[:, page])
        slot = self._free.pop() if self._free else self._kept.popitem(last=False)[1][0]
        try:
            self.slots.write(slot, self._content)
        except OSError as error:
            self._free.append(slot)
            self._report(error)
            return
        self._kept[digest] = slot, zlib.crc32(self._content.numpy().data)
        self.counts.stored += 1
        self.counts.store_seconds += time.perf_counter() - began

    def load(self, digest: bytes, page: int) -> bool:
        """Move a page in; False, with the page as it was, where that cannot be done."""
        if digest not in self._kept:
            return False
        began = time.perf_counter()
        slot, checksum = self._kept.pop(digest)
        self._free.append(slot)
        if not self._read(slot, checksum):
            return False
        for view, part in zip(self._views, self._parts, strict=True):
            part[:, page].copy_(view)
        self.counts.loaded += 1
        self.counts.load_bytes += self.page_bytes
        self.counts.load_seconds += time.perf_counter() - began
        return True

    def check_integrity(self) -> None:
        """Assert that each slot is free or holds one page."""
        slots = [slot for slot, _ in self._kept.values()] + self._free
        assert sorted(slots) == list(range(self._capacity)), "a cold slot leaked or is used twice"

    def _read(self, slot: int, checksum: int) -> bool:
        """Whether the slot's content, now in the buffer, is what was written."""
        try:
            self.slots.read(slot, self._content)
        except OSError as error:
            self._report(error)
            return False
        if zlib.crc32(self._content.numpy().data) != checksum:
            self.counts.damaged += 1
            log.warning("a cold page is damaged and will be computed again")
            return False
        return True

    def _report(self, error: OSError) -> None:
        self.counts.failed += 1
        log.warning("a cold page is lost and will be computed again: %s", error)


def loading_gain(
    *, tokens: int, nbytes: int, bandwidth_bytes_s: float, prefill_tokens_s: float
) -> float:
    """(tokens / prefill rate) / (bytes / bandwidth): above 1, loading is faster than computing.

    Both grow with the tokens, so that the gain depends on bytes a token and on the two rates alone,
    until attention's own cost, quadratic in the prompt, makes computing slower still. Pages that
    must go cold first, to make room, cost the same either way and are left out.

    Args:
        tokens: whose keys and values are loaded.
        nbytes: of those keys and values.
        bandwidth_bytes_s: of the store, such as `ColdCounts.load_bandwidth`.
        prefill_tokens_s: tokens that the model computes in a second.

    Raises:
        ValueError: a number is not positive.
    """
    given = (tokens, nbytes, bandwidth_bytes_s, prefill_tokens_s)
    if min(given) <= 0:
        raise ValueError(f"tokens, bytes, bandwidth and rate must be positive, not {given}")
    return (tokens / prefill_tokens_s) / (nbytes / bandwidth_bytes_s)


def _views(content: UInt8[Tensor, " bytes"], parts: list[Tensor]) -> list[Tensor]:
    """A page of each part as a piece of the buffer; largest items first, so that all align."""
    views, begin = [], 0
    for part in parts:
        shape = (part.shape[0], *part.shape[2:])  # (L, P, ...) -> (L, ...)
        end = begin + prod(shape) * part.itemsize
        views.append(content[begin:end].view(part.dtype).view(shape))
        begin = end
    return views
