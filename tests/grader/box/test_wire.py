"""Frames round-trip exactly; anything malformed is refused without a traceback or a pickle."""

import math
import os
from typing import Any

import numpy as np
import pytest
import torch

from grader.box.wire import HEADER, Channel, ClosedError, WireError, decode, encode
from grader.checks.values import Foreign, difference, to_numpy


def round_trip(message: dict[str, Any]) -> dict[str, Any]:
    data = encode(message)
    _, text = HEADER.unpack(data[: HEADER.size])
    body = data[HEADER.size :]
    return decode(body[:text], body[text:])


@pytest.mark.parametrize(
    "value",
    [
        1,
        True,
        None,
        "é\udc80",
        -0.0,
        math.inf,
        [1, [2.0, ("a",)]],
        {"k": {"j": 1}},
        np.arange(6, dtype=np.int16).reshape(2, 3),
        np.zeros((0, 3)),
        torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).T,
        torch.tensor([1.5, -2.0]).bfloat16(),
        torch.tensor(True),
    ],
)
def test_round_trip(value: Any) -> None:
    got = round_trip({"v": value})["v"]
    assert type(got) is type(value)
    if isinstance(value, torch.Tensor | np.ndarray):
        assert to_numpy(got)[1] == to_numpy(value)[1]
        assert difference(got, value, _exact()) == ""
    else:
        assert got == value


def _exact() -> Any:
    from grader.checks.values import Tolerance

    return Tolerance()


def test_other_objects_become_their_types_name() -> None:
    class Sly(float):
        pass

    got = round_trip(
        {"a": Sly(1.0), "b": np.array([object()]), "c": torch.nn.Parameter(torch.ones(1))}
    )
    assert all(type(value) is Foreign for value in got.values())


@pytest.mark.parametrize(
    ("text", "blobs"),
    [
        (b"", b""),
        (b"[1]", b""),
        (b'{"dict": 3}', b""),
        (b'{"dict": {"a": {"array": [0, 99], "kind": "numpy", "dtype": "x"}}}', b""),
        (b'{"dict": {"a": {"array": [-5, 3], "kind": "numpy", "dtype": "x"}}}', b"abc"),
        (b'{"dict": {"a": {"array": [0, 3], "kind": "numpy", "dtype": "x"}}}', b"abc"),
        (b'{"list": ' * 5_000, b""),
        (b'{"dict": {"a": ' + b'{"list": [' * 50 + b"]}" * 50 + b"}}", b""),
    ],
)
def test_malformed_frames_are_refused(text: bytes, blobs: bytes) -> None:
    with pytest.raises(WireError):
        decode(text, blobs)


def test_a_pickled_array_is_not_loaded() -> None:
    import io
    import json

    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    blob = buffer.getvalue()
    text = {"dict": {"a": {"array": [0, len(blob)], "kind": "numpy", "dtype": "object"}}}
    with pytest.raises(WireError):
        decode(json.dumps(text).encode(), blob)


def test_a_huge_frame_is_refused_before_it_is_read() -> None:
    reads, writes = os.pipe()
    back, forth = os.pipe()
    channel = Channel(reads, forth)
    os.write(writes, HEADER.pack(2**40, 10))
    with pytest.raises(WireError, match="larger than"):
        channel.receive(1.0)
    with pytest.raises(TimeoutError):
        channel.receive(0.05)
    os.close(writes)
    with pytest.raises(ClosedError):
        channel.receive(1.0)
    channel.close()
    os.close(back)


def test_a_huge_answer_is_refused_where_it_is_made() -> None:
    with pytest.raises(WireError, match="too large"):
        encode({"a": np.zeros(2**27, dtype=np.uint8)})
