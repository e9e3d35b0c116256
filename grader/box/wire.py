"""The only thing that crosses the sandbox's wall: length-prefixed JSON and npy, capped, no pickle.

A frame is 8 bytes total length, 4 bytes JSON length, the JSON, then the npy blobs the JSON points
into. The same module runs on both sides; `decode` trusts nothing.
"""

import io
import json
import os
import selectors
import struct
import time
from typing import Any

import numpy as np

from grader.checks.values import MAX_DEPTH, SCALARS, Foreign, is_tensor, to_numpy, type_name

MAX_FRAME_BYTES = 64 * 2**20
HEADER = struct.Struct(">QI")
CHUNK_BYTES = 2**20


class WireError(ValueError):
    """The other side sent something that is no frame."""


class ClosedError(EOFError):
    """The other side is gone."""


def encode(message: dict[str, Any]) -> bytes:
    """Encode a message; objects of other types become their type's name."""
    blobs: list[bytes] = []
    text = json.dumps(_encode(message, blobs, 0)).encode()
    body = text + b"".join(blobs)
    if len(body) > MAX_FRAME_BYTES:
        raise WireError(f"the result has {len(body)} bytes, more than {MAX_FRAME_BYTES}")
    return HEADER.pack(len(body), len(text)) + body


def _encode(value: Any, blobs: list[bytes], depth: int) -> Any:
    if depth > MAX_DEPTH + 4:
        raise WireError("the result is nested too deeply")
    if type(value) in SCALARS:
        return value
    if type(value) is dict:
        return {"dict": {str(key): _encode(item, blobs, depth + 1) for key, item in value.items()}}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_encode(item, blobs, depth + 1) for item in value]}
    if type(value) is np.ndarray or is_tensor(value):
        return _encode_array(value, blobs)
    return {"object": type_name(value)}


def _encode_array(value: Any, blobs: list[bytes]) -> Any:
    array, dtype = to_numpy(value)
    if array.nbytes > MAX_FRAME_BYTES:
        raise WireError(f"an array of {array.nbytes} bytes is too large")
    if array.dtype.kind not in "fciub":
        return {"object": f"numpy.ndarray of {dtype}"}
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    start = sum(len(blob) for blob in blobs)
    blobs.append(buffer.getvalue())
    place = [start, len(blobs[-1])]
    return {"array": place, "kind": "torch" if is_tensor(value) else "numpy", "dtype": dtype}


def decode(text: bytes, blobs: bytes) -> dict[str, Any]:
    """Decode a frame's body; WireError for whatever is malformed."""
    try:
        message = _decode(json.loads(text), blobs, 0)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise WireError(f"malformed frame: {type(error).__name__}") from None
    if type(message) is not dict:
        raise WireError("malformed frame: no message")
    return message


def _decode(value: Any, blobs: bytes, depth: int) -> Any:
    if depth > MAX_DEPTH + 4:
        raise WireError("nested too deeply")
    if type(value) in SCALARS:
        return value
    if type(value) is not dict:
        raise WireError("malformed frame")
    if "dict" in value:
        return {str(key): _decode(item, blobs, depth + 1) for key, item in value["dict"].items()}
    if "list" in value:
        return [_decode(item, blobs, depth + 1) for item in value["list"]]
    if "tuple" in value:
        return tuple(_decode(item, blobs, depth + 1) for item in value["tuple"])
    if "object" in value:
        return Foreign(str(value["object"])[:100])
    return _decode_array(value, blobs)


def _decode_array(value: dict[str, Any], blobs: bytes) -> Any:
    start, length = value["array"]
    if not 0 <= start <= start + length <= len(blobs):
        raise WireError("an array lies outside its frame")
    buffer = io.BytesIO(blobs[start : start + length])
    array = np.lib.format.read_array(buffer, allow_pickle=False)
    if array.dtype.kind not in "fciub":
        raise WireError(f"arrays of {array.dtype} are not accepted")
    if value["kind"] != "torch":
        return array
    import torch

    tensor = torch.from_numpy(np.array(array, copy=True))
    dtype = getattr(torch, str(value["dtype"]), None)
    if not isinstance(dtype, torch.dtype):
        raise WireError("unknown dtype")
    return tensor.to(dtype)


class Channel:
    """Frames over a pair of file descriptors, with a deadline for every read and write."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd, self._write_fd = read_fd, write_fd
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)

    def send(self, message: dict[str, Any], limit_s: float | None = None) -> None:
        """Send one message; TimeoutError when the other side does not read in time."""
        data = memoryview(encode(message))
        deadline = _deadline(limit_s)
        while data:
            _wait(self._write_fd, selectors.EVENT_WRITE, deadline)
            try:
                data = data[os.write(self._write_fd, data[:CHUNK_BYTES]) :]
            except BlockingIOError:
                continue
            except OSError:
                raise ClosedError("the other side is gone") from None

    def receive(self, limit_s: float | None = None) -> dict[str, Any]:
        """Receive one message; TimeoutError, ClosedError or WireError when there is none."""
        deadline = _deadline(limit_s)
        total, text = HEADER.unpack(self._read(HEADER.size, deadline))
        if total > MAX_FRAME_BYTES or text > total:
            raise WireError(f"a frame of {total} bytes is larger than {MAX_FRAME_BYTES}")
        body = self._read(total, deadline)
        return decode(body[:text], body[text:])

    def _read(self, size: int, deadline: float | None) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            _wait(self._read_fd, selectors.EVENT_READ, deadline)
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
    with selectors.DefaultSelector() as selector:
        selector.register(fd, event)
        if not selector.select(left):
            raise TimeoutError
