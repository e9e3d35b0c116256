"""How many texts may be under way: the bound of every queue behind it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from labkit.serving.errors import ApiError, overloaded, unavailable

MOST_RETRY_S = 60  # stock clients give up at once on more than 120 s
_WEIGHT = 0.1  # of the newest request in the mean duration


class Admission:
    """Counts texts in, from acceptance to the end of the answer.

    Args:
        running: Texts that the backend runs at once.
        waiting: Texts that may wait beside them.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self.capacity = running + waiting
        self.in_flight = 0
        self.draining = False
        self._running = max(running, 1)
        self._mean_s = 1.0

    @contextmanager
    def enter(self, texts: int) -> Iterator[None]:
        """Hold places for a request's texts while the block lasts.

        Raises:
            ApiError: 503 while the server shuts down, 429 where the queue is full, 400 where it
                could never take so many.
        """
        if self.draining:
            raise unavailable("the server is shutting down: ask another one")
        if texts > self.capacity:
            raise ApiError(f"{texts} texts in one request: at most {self.capacity} fit the queue")
        if self.in_flight + texts > self.capacity:
            raise overloaded(self.in_flight, self.retry_after_s())
        self.in_flight += texts
        try:
            yield
        finally:
            self.in_flight -= texts

    def took(self, seconds: float) -> None:
        """Learn from a request that has ended how long one takes."""
        self._mean_s += _WEIGHT * (seconds - self._mean_s)

    def retry_after_s(self) -> int:
        """About when a place will be free: one batch's worth of time for each batch ahead."""
        batches = max(1.0, (self.in_flight - self._running) / self._running)
        return max(1, min(MOST_RETRY_S, math.ceil(self._mean_s * batches)))
