"""A safetensors file judged by its header, before a byte of a tensor is read.

A file from a stranger may claim a header of exabytes, or hold tensors that fill the memory. Reading
8 bytes, then a bounded header, costs nothing and decides. Whether the offsets are sound is left to
safetensors itself, which reads the file afterwards.
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.inference.adapters.errors import InvalidAdapterError

MAX_HEADER_BYTES = 4 * 2**20  # 100 layers of 7 projections take 0.2 MB
DTYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_LENGTH_BYTES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What a file says it holds.

    Attributes:
        shapes: of its tensors, by name.
        metadata: free text by key.
    """

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


def read_header(path: Path, *, max_bytes: int) -> Header:
    """Names, shapes and metadata of a safetensors file of at most `max_bytes` bytes.

    Raises:
        InvalidAdapterError: it is absent, too large, damaged, or holds a tensor that is not
            float32, float16 or bfloat16.
    """
    if not path.is_file():
        pickles = sorted(path.parent.glob("*.bin")) + sorted(path.parent.glob("*.pt"))
        why = f"; {pickles[0].name} is a pickle, which may run code, and is not read" * bool(
            pickles
        )
        raise InvalidAdapterError(f"{path} is absent{why}: save the adapter as safetensors")
    size = path.stat().st_size
    if size > max_bytes:
        raise InvalidAdapterError(
            f"{path} has {size} bytes, above the limit of {max_bytes}: "
            "take a smaller rank, fewer targets, or a bank of more bytes"
        )
    try:
        return _parse(_header_bytes(path, size))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidAdapterError(f"{path} is damaged or no safetensors file: {error}") from error


def _header_bytes(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        start = file.read(_LENGTH_BYTES)
        if len(start) < _LENGTH_BYTES:
            raise ValueError(f"{size} bytes are too few")
        [length] = struct.unpack("<Q", start)
        if length > min(MAX_HEADER_BYTES, size - _LENGTH_BYTES):
            raise ValueError(
                f"a header of {length} bytes in a file of {size}; at most {MAX_HEADER_BYTES} go"
            )
        return file.read(length)


def _parse(text: bytes) -> Header:
    fields: dict[str, Any] = json.loads(text)
    metadata = fields.pop("__metadata__", {})
    shapes = {}
    for name, entry in fields.items():
        shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
        if entry["dtype"] not in DTYPE_BYTES:
            raise ValueError(f"{name} is {entry['dtype']}; adapters are {', '.join(DTYPE_BYTES)}")
        if math.prod(shape) * DTYPE_BYTES[entry["dtype"]] != end - begin:
            raise ValueError(f"{name} of shape {shape} does not fill its {end - begin} bytes")
        shapes[name] = shape
    return Header(shapes=shapes, metadata={str(k): str(v) for k, v in metadata.items()})
