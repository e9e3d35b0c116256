"""Which page of the KV cache holds which tokens: tables, reference counts, shared prefixes."""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from labkit.inference.page_pool import ColdPages, PagePool


class OutOfPagesError(Exception):
    """Not enough pages are free; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Copy:
    """The content of page `source` must be copied to page `to` before the next write."""

    source: int
    to: int


@dataclass(slots=True)
class _Table:
    """One sequence's pages; tokens [0, written) of it are in them."""

    pages: list[int] = field(default_factory=list)
    written: int = 0
    digests: list[bytes] = field(default_factory=list)  # of its full pages, in order
    salt: bytes = b""


class BlockManager:
    """Hands out pages of `page_size` tokens, counts who uses them and finds common prefixes.

    The digest of a full page covers all tokens before it too, so equal digests mean equal keys and
    values. Pages are written over only after the copies that `reserve` asks for; with `cold`,
    `begin` writes on pages at once, so those copies come first.

    Paper: paging and copy-on-write arXiv 2309.06180, sections 4.2-4.4.

    Args:
        num_pages: P, pages there are.
        page_size: tokens a page holds.
        prefix_cache: whether full pages can be found again by later sequences.
        cold: where the content of cached pages goes when they are given away; None: it is lost.
    """

    def __init__(
        self,
        num_pages: int,
        page_size: int,
        *,
        prefix_cache: bool = True,
        cold: ColdPages | None = None,
    ) -> None:
        if num_pages < 1 or page_size < 1:
            raise ValueError(f"num_pages={num_pages} and page_size={page_size} must be >= 1")
        self.num_pages, self.page_size = num_pages, page_size
        self._prefix_cache = prefix_cache
        self._tables: dict[int, _Table] = {}
        self._pool = PagePool(num_pages, cold)

    @property
    def free_pages(self) -> int:
        """Pages that `reserve` could hand out now, cached ones included."""
        return self._pool.available

    @property
    def used_pages(self) -> int:
        return self.num_pages - self.free_pages

    def pages_for(self, tokens: int) -> int:
        """ceil(tokens / page_size)."""
        return -(-tokens // self.page_size)

    def table(self, key: int) -> list[int]:
        """The sequence's pages in order; to be read only."""
        return self._tables[key].pages

    def begin(self, key: int, tokens: Sequence[int], *, salt: bytes = b"") -> int:
        """Open a table for a sequence, on the cached and cold pages of its longest known prefix.

        At least one token is left to compute, since its logits are wanted.

        Args:
            key: the sequence's own number.
            tokens: of its prompt.
            salt: what keys and values depend on beside the tokens (the adapter).

        Returns:
            How many tokens lie in pages already.
        """
        if key in self._tables:
            raise ValueError(f"sequence {key} has a table already")
        table = _Table(salt=salt)
        if self._prefix_cache:
            for start in range(0, len(tokens) - self.page_size, self.page_size):
                digest = self._extend_digest(table, tokens[start : start + self.page_size])
                if not self._pool.knows(digest):
                    break
                table.digests.append(digest)
            table.pages = self._pool.find(table.digests)
            del table.digests[len(table.pages) :]
        table.written = len(table.pages) * self.page_size
        self._tables[key] = table
        return table.written

    def reserve(self, key: int, length: int) -> list[Copy]:
        """Make tokens [written, length) of a sequence writable.

        Returns:
            The copy that must be made first, if the page to go on in is shared with another
            sequence (copy-on-write).

        Raises:
            OutOfPagesError: more pages are wanted than are free.
        """
        table = self._tables[key]
        first = table.written // self.page_size
        shared = first < len(table.pages) and self._pool.count[table.pages[first]] > 1
        wanted = max(0, self.pages_for(length) - len(table.pages))
        if wanted + shared > self.free_pages:
            raise OutOfPagesError(
                f"{wanted + shared} pages wanted, {self.free_pages} of {self.num_pages} free"
            )
        copies = []
        if shared:
            source, page = table.pages[first], self._pool.take()
            self._pool.release(source)
            table.pages[first] = page
            copies.append(Copy(source, page))
        elif first < len(table.pages):
            self._pool.forget(
                table.pages[first]
            )  # written over: what its digest says no longer holds
        table.pages.extend(self._pool.take() for _ in range(wanted))
        return copies

    def fill(self, key: int, tokens: Sequence[int], length: int) -> None:
        """Say that tokens [written, length) now lie in pages; full pages become findable.

        Args:
            key: the sequence.
            tokens: all of it, at least `length`.
            length: as reserved.
        """
        table = self._tables[key]
        assert table.written <= length <= len(table.pages) * self.page_size
        table.written = length
        if not self._prefix_cache:
            return
        while (len(table.digests) + 1) * self.page_size <= length:
            index = len(table.digests)
            start = index * self.page_size
            digest = self._extend_digest(table, tokens[start : start + self.page_size])
            table.digests.append(digest)
            self._pool.publish(table.pages[index], digest)

    def fork(self, parent: int, child: int) -> None:
        """Let a new sequence begin as a copy of another, sharing every page."""
        if child in self._tables:
            raise ValueError(f"sequence {child} has a table already")
        table = self._tables[parent]
        for page in table.pages:
            self._pool.share(page)
        self._tables[child] = _Table(
            list(table.pages), table.written, list(table.digests), table.salt
        )

    def truncate(self, key: int, length: int) -> None:
        """Forget the tokens from position `length` on; pages beyond are given back."""
        table = self._tables[key]
        if not 0 <= length <= table.written:
            raise ValueError(f"length={length} must lie in [0, {table.written}]")
        keep = self.pages_for(length)
        for page in reversed(table.pages[keep:]):
            self._pool.release(page)
        del table.pages[keep:]
        del table.digests[length // self.page_size :]
        table.written = length

    def end(self, key: int) -> None:
        """Close a sequence's table; pages that nobody else uses are cached or free."""
        for page in reversed(self._tables.pop(key).pages):  # so that a prefix outlives its tail
            self._pool.release(page)

    def check_integrity(self) -> None:
        """Assert that every page is in one place and counted right; O(pages + tables)."""
        uses = [0] * self.num_pages
        for table in self._tables.values():
            assert len(set(table.pages)) == len(table.pages), "a page is twice in one table"
            assert table.written <= len(table.pages) * self.page_size
            assert len(table.digests) <= table.written // self.page_size
            for page in table.pages:
                uses[page] += 1
        self._pool.check_integrity(uses)

    def _extend_digest(self, table: _Table, tokens: Sequence[int]) -> bytes:
        before = table.digests[-1] if table.digests else table.salt
        content = before + array("q", tokens).tobytes()
        return hashlib.blake2b(content, digest_size=16).digest()
