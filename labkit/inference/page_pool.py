"""Pages by their content: who uses each, which can be found again, which are free or cold."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class ColdPages(Protocol):
    """Keeps the content of pages that are given to somebody else, as `offload.ColdStore` does."""

    def store(self, digest: bytes, page: int) -> None:
        """Take a copy of a page now, before it is written over."""
        ...

    def touch(self, digest: bytes) -> bool:
        """Whether something is kept under a digest; it is then the last to be given up."""
        ...

    def load(self, digest: bytes, page: int) -> bool:
        """Put what is kept under a digest into a page now and give it up; False: there is none."""
        ...

    def check_integrity(self) -> None:
        """Assert that what is kept and where agree."""
        ...


class PagePool:
    """Counts the uses of each page and finds full ones by the digest of what they hold.

    A page is *used* (reference count >= 1), *cached* (count 0, but full and findable by its digest)
    or *free*. Cached pages are given away last, the one that was left longest ago first; with
    `cold`, their content goes there and comes back into a free page when it is asked for.

    Args:
        num_pages: P, pages there are.
        cold: where the content of cached pages goes when they are given away; None: it is lost.
    """

    def __init__(self, num_pages: int, cold: ColdPages | None = None) -> None:
        self.count = [0] * num_pages
        self._cold = cold
        self._free = list(reversed(range(num_pages)))  # the last one freed is the next one used
        self._digest: list[bytes | None] = [None] * num_pages
        self._by_digest: dict[bytes, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()  # count 0, oldest first

    @property
    def available(self) -> int:
        """Pages that `take` could hand out now, cached ones included."""
        return len(self._free) + len(self._cached)

    def take(self) -> int:
        """A page to write on, used once."""
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._cached.popitem(last=False)
            digest = self._digest[page]
            if self._cold is not None and digest is not None:
                self._cold.store(digest, page)
            self.forget(page)
        self.count[page] += 1
        return page

    def share(self, page: int) -> None:
        """Count one more use of a page."""
        self.count[page] += 1

    def release(self, page: int) -> None:
        """Count one use less; a page that nobody uses is cached or free."""
        self.count[page] -= 1
        if self.count[page] == 0:
            if self._digest[page] is None:
                self._free.append(page)
            else:
                self._cached[page] = None

    def knows(self, digest: bytes) -> bool:
        """Whether a page with this content could be found."""
        return digest in self._by_digest or (self._cold is not None and self._cold.touch(digest))

    def find(self, digests: Sequence[bytes]) -> list[int]:
        """The pages with these contents, used once more, up to the first that is not there."""
        pages: list[int] = []
        for digest in digests:
            page = self._by_digest.get(digest)
            if page is None:
                page = self._load(digest)
            else:
                self._cached.pop(page, None)
                self.count[page] += 1
            if page is None:
                break
            pages.append(page)
        return pages

    def publish(self, page: int, digest: bytes) -> None:
        """Let a full page be found, unless another with the same content is found already."""
        if digest not in self._by_digest and self._digest[page] is None:
            self._by_digest[digest], self._digest[page] = page, digest

    def forget(self, page: int) -> None:
        """Say that a page no longer holds what its digest says."""
        digest, self._digest[page] = self._digest[page], None
        if digest is not None:
            del self._by_digest[digest]

    def check_integrity(self, uses: Sequence[int]) -> None:
        """Assert that every page is in one place and counted as often as it is used."""
        assert list(uses) == self.count, "reference counts differ from the tables"
        free, cached = set(self._free), set(self._cached)
        assert len(free) == len(self._free), "a page is free twice"
        assert not free & cached, "a page is free and cached"
        for page, count in enumerate(uses):
            idle = page in free or page in cached
            assert idle == (count == 0), f"page {page} leaked or is free while used"
            digest = self._digest[page]
            assert (page in cached) <= (digest is not None)
            assert (page in free) <= (digest is None)
            assert digest is None or self._by_digest[digest] == page
        assert len(self._by_digest) == sum(d is not None for d in self._digest)
        if self._cold is not None:
            self._cold.check_integrity()

    def _load(self, digest: bytes) -> int | None:
        if self._cold is None or not self.available:
            return None
        page = self.take()  # what it held may push this very digest out of the cold pages
        if not self._cold.load(digest, page):
            self.release(page)
            return None
        self.publish(page, digest)
        return page
