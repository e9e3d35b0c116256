"""Frames: values as length-prefixed JSON and npy, capped, no pickle.

A frame is 8 bytes total length, 4 bytes JSON length, the JSON, then the npy blobs the JSON points
into, one after another. The same module runs on both sides; `decode` trusts nothing: no two arrays
are made of the same bytes, and none is larger than the bytes it is made of.
"""

import io
import json
import math
import struct
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np

from grader.checks.outside import Outside
from grader.checks.values import MAX_DEPTH, SCALARS, Foreign, is_tensor, to_numpy, type_name

MAX_FRAME_BYTES = 64 * 2**20
MAX_TEXT_BYTES = 4 * 2**20  # of a frame out of a box: it takes longer to parse than to send
MAX_ARRAYS = 4_096
MAX_HEADER_BYTES = 1_024
HEADER = struct.Struct(">QI")
NPY_HEADER = struct.Struct("<8sH")  # magic and version, length of the rest
Call = Callable[..., Any]


class WireError(ValueError):
    """The other side sent something that is no frame."""


def encode(
    message: dict[str, Any],
    *,
    most_text: int = MAX_FRAME_BYTES,
    outside: list[Outside] | None = None,
) -> bytes:
    """Encode a message; objects of other types become their type's name.

    Args:
        message: Of scalars, dicts, lists, tuples, arrays and tensors.
        most_text: Bytes of JSON that it may have.
        outside: Functions that stay here are added to this list and become their places in it.

    Raises:
        WireError: It is too large or nested too deeply.
    """
    encoder = _Encoder(outside)
    text = json.dumps(encoder.value(message, 0)).encode()
    total = len(text) + encoder.size
    if total > MAX_FRAME_BYTES:
        raise WireError(f"the result has {total} bytes, more than {MAX_FRAME_BYTES}")
    if len(text) > most_text:
        raise WireError(f"the result has {len(text)} bytes without arrays, more than {most_text}")
    return b"".join([HEADER.pack(total, len(text)), text, *encoder.blobs])


class _Encoder:
    """Values as JSON, their arrays as blobs, functions as places in a list."""

    def __init__(self, outside: list[Outside] | None) -> None:
        self.blobs: list[bytes] = []
        self.size = 0
        self._outside = outside

    def value(self, value: Any, depth: int) -> Any:
        if depth > MAX_DEPTH + 4:
            raise WireError("the result is nested too deeply")
        if type(value) in SCALARS:
            return value
        if type(value) is dict:
            return {"dict": {str(key): self.value(v, depth + 1) for key, v in value.items()}}
        if type(value) in (list, tuple):
            return {type(value).__name__: [self.value(item, depth + 1) for item in value]}
        if type(value) is np.ndarray or is_tensor(value):
            return self._array(value)
        if type(value) is Outside and self._outside is not None:
            self._outside.append(value)
            return {"outside": len(self._outside) - 1}
        return {"object": type_name(value)}

    def _array(self, value: Any) -> Any:
        array, dtype = to_numpy(value)
        if self.size + array.nbytes > MAX_FRAME_BYTES:
            raise WireError(f"an array of {array.nbytes} bytes is too large")
        if array.dtype.kind not in "fciub":
            return {"object": f"numpy.ndarray of {dtype}"}
        if len(self.blobs) == MAX_ARRAYS:
            raise WireError(f"the result has more than {MAX_ARRAYS} arrays")
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
        self.blobs.append(buffer.getvalue())
        place = [self.size, len(self.blobs[-1])]
        self.size += place[1]
        return {"array": place, "kind": "torch" if is_tensor(value) else "numpy", "dtype": dtype}


def decode(text: bytes, blobs: bytes, call: Call | None = None) -> dict[str, Any]:
    """Decode a frame's body.

    Args:
        text: Its JSON.
        blobs: What follows.
        call: Given the place of a function that stays outside and arguments, calls it; without it
            a message may have none.

    Raises:
        WireError: It is malformed in whatever way.
    """
    decoder = _Decoder(blobs, call)
    try:
        message = decoder.value(json.loads(text), 0)
    except WireError:
        raise
    except Exception as error:  # the parsers of JSON and npy raise anything at what is forged
        raise WireError(f"malformed frame: {type(error).__name__}") from None
    if type(message) is not dict:
        raise WireError("malformed frame: no message")
    return message


class _Decoder:
    """Values from JSON, each array from the blob that follows the one before."""

    def __init__(self, blobs: bytes, call: Call | None) -> None:
        self._blobs, self._end, self._arrays = memoryview(blobs), 0, 0
        self._call = call

    def value(self, value: Any, depth: int) -> Any:
        if depth > MAX_DEPTH + 4:
            raise WireError("nested too deeply")
        if type(value) in SCALARS:
            return value
        if type(value) is not dict:
            raise WireError("malformed frame")
        if "array" in value:
            return self._array(value)
        [(kind, content)] = value.items()
        if kind == "dict":
            return {key: self.value(item, depth + 1) for key, item in content.items()}
        if kind in ("list", "tuple") and type(content) is list:
            items = [self.value(item, depth + 1) for item in content]
            return items if kind == "list" else tuple(items)
        if kind == "object" and type(content) is str:
            return Foreign(content[:100])
        if kind == "outside" and type(content) is int and self._call is not None:
            return partial(self._call, content)
        raise WireError("malformed frame")

    def _array(self, value: dict[str, Any]) -> Any:
        start, length = value["array"]
        if start != self._end or not 0 <= length <= len(self._blobs) - start:
            raise WireError("an array does not lie behind the one before it, in the frame")
        self._end += length
        self._arrays += 1
        if self._arrays > MAX_ARRAYS:
            raise WireError(f"more than {MAX_ARRAYS} arrays")
        array = _from_npy(self._blobs[start : self._end])
        return array if value["kind"] == "numpy" else _tensor(array, value["dtype"])


def _from_npy(blob: memoryview) -> Any:
    """The array of a blob; what its header claims is held against the blob's size at first."""
    size = NPY_HEADER.size + NPY_HEADER.unpack_from(blob)[1]
    if size > MAX_HEADER_BYTES:
        raise WireError(f"the header of an array has more than {MAX_HEADER_BYTES} bytes")
    shape, fortran_order, dtype = _header(bytes(blob[:size]))
    if math.prod(shape) * dtype.itemsize != len(blob) - size:
        raise WireError("an array has another size than it says")
    order: Literal["C", "F"] = "F" if fortran_order else "C"
    return np.ndarray(shape, dtype, blob[size:], order=order).copy(order="K")


@lru_cache(maxsize=1_024)
def _header(header: bytes) -> tuple[tuple[int, ...], bool, Any]:
    """Shape, whether in Fortran's order, and dtype; parsing one takes long, and few differ."""
    file = io.BytesIO(header)
    if np.lib.format.read_magic(file) != (1, 0):
        raise WireError("an array in another format than npy 1.0")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.kind not in "fciub":
        raise WireError(f"arrays of {dtype} are not accepted")
    return shape, fortran_order, dtype


def _tensor(array: Any, dtype: str) -> Any:
    """An array as a tensor; only bfloat16 is sent as something else, which is larger."""
    import torch

    tensor = torch.from_numpy(array)
    if dtype == "bfloat16" and tensor.dtype is torch.float32:
        return tensor.bfloat16()
    if str(tensor.dtype) != f"torch.{dtype}":
        raise WireError("a tensor has another dtype than it says")
    return tensor
