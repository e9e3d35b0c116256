"""The only thing that crosses the sandbox's wall: frames over two pipes, with deadlines."""

import os
import select
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from grader.box.frames import (
    HEADER,
    MAX_FRAME_BYTES,
    MAX_TEXT_BYTES,
    Call,
    WireError,
    decode,
    encode,
)
from grader.checks.outside import Outside

CHUNK_BYTES = 2**20
Left: TypeAlias = Callable[[], float]
"""Tells how many seconds are left; asked again and again."""


def within(limit_s: float) -> Left:
    """So many seconds from now on, by the clock."""
    until = time.monotonic() + limit_s
    return lambda: until - time.monotonic()


class ClosedError(EOFError):
    """The other side is gone."""


class Channel:
    """Frames over a pair of file descriptors, with a deadline for every read and write."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd, self._write_fd = read_fd, write_fd
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)

    def send(
        self,
        message: dict[str, Any],
        left: Left | None = None,
        *,
        most_text: int = MAX_FRAME_BYTES,
        outside: list[Outside] | None = None,
    ) -> None:
        """Send one message, `most_text` and `outside` as in `encode`.

        Raises:
            WireError: It cannot be sent; nothing was.
            TimeoutError: The other side does not read in time.
            ClosedError: It is gone.
        """
        data = memoryview(encode(message, most_text=most_text, outside=outside))
        while data:
            _wait(self._write_fd, select.POLLOUT, left)
            try:
                data = data[os.write(self._write_fd, data[:CHUNK_BYTES]) :]
            except BlockingIOError:
                continue
            except OSError:
                raise ClosedError("the other side is gone") from None

    def receive(
        self,
        left: Left | None = None,
        *,
        most_text: int = MAX_TEXT_BYTES,
        call: Call | None = None,
    ) -> dict[str, Any]:
        """Receive one message of at most `most_text` bytes of JSON, `call` as in `decode`.

        Raises:
            WireError: What came is no frame, or too large.
            TimeoutError: None came in time.
            ClosedError: The other side is gone.
        """
        total, text = HEADER.unpack(self._read(HEADER.size, left))
        if total > MAX_FRAME_BYTES or text > total:
            raise WireError(f"a frame of {total} bytes is larger than {MAX_FRAME_BYTES}")
        if text > most_text:
            raise WireError(f"a frame with {text} bytes of JSON has more than {most_text}")
        body = self._read(total, left)
        return decode(body[:text], body[text:], call)

    def _read(self, size: int, left: Left | None) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            _wait(self._read_fd, select.POLLIN, left)
            try:
                part = os.read(self._read_fd, min(CHUNK_BYTES, size - len(parts)))
            except BlockingIOError:
                continue
            if not part:
                raise ClosedError("the other side is gone")
            parts += part
        return bytes(parts)

    def close(self) -> None:
        os.close(self._read_fd)
        os.close(self._write_fd)


def _wait(fd: int, event: int, left: Left | None) -> None:
    waiting = select.poll()
    waiting.register(fd, event)
    while True:
        seconds = None if left is None else left()
        if seconds is not None and seconds <= 0:
            raise TimeoutError
        if waiting.poll(None if seconds is None else 1_000 * seconds):
            return
