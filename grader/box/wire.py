"""The only thing that crosses the sandbox's wall: frames over two pipes, with deadlines."""

import os
import select
import time
from typing import Any

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
        limit_s: float | None = None,
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
        deadline = _deadline(limit_s)
        while data:
            _wait(self._write_fd, select.POLLOUT, deadline)
            try:
                data = data[os.write(self._write_fd, data[:CHUNK_BYTES]) :]
            except BlockingIOError:
                continue
            except OSError:
                raise ClosedError("the other side is gone") from None

    def receive(
        self,
        limit_s: float | None = None,
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
        deadline = _deadline(limit_s)
        total, text = HEADER.unpack(self._read(HEADER.size, deadline))
        if total > MAX_FRAME_BYTES or text > total:
            raise WireError(f"a frame of {total} bytes is larger than {MAX_FRAME_BYTES}")
        if text > most_text:
            raise WireError(f"a frame with {text} bytes of JSON has more than {most_text}")
        body = self._read(total, deadline)
        return decode(body[:text], body[text:], call)

    def _read(self, size: int, deadline: float | None) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            _wait(self._read_fd, select.POLLIN, deadline)
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


def _deadline(limit_s: float | None) -> float | None:
    return None if limit_s is None else time.monotonic() + limit_s


def _wait(fd: int, event: int, deadline: float | None) -> None:
    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left <= 0:
        raise TimeoutError
    waiting = select.poll()
    waiting.register(fd, event)
    if not waiting.poll(None if left is None else 1_000 * left):
        raise TimeoutError
