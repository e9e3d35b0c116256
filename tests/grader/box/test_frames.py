"""Frames round-trip exactly; whatever else the bytes are, they are refused and cost little."""

import io
import json
import math
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grader.box.frames import HEADER, MAX_ARRAYS, WireError, decode, encode
from grader.checks.core import EXACT
from grader.checks.outside import Outside
from grader.checks.values import Foreign, difference, to_numpy


def parts(frame: bytes) -> tuple[bytes, bytes]:
    """A frame's JSON and blobs."""
    _, text = HEADER.unpack_from(frame)
    body = frame[HEADER.size :]
    return body[:text], body[text:]


def round_trip(message: dict[str, Any]) -> dict[str, Any]:
    return decode(*parts(encode(message)))


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
        {"k": {"j": 1}, "array": [0, 1], "list": []},
        np.arange(6, dtype=np.int16).reshape(2, 3),
        np.arange(3, dtype=">f4"),
        np.zeros((0, 3)),
        torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).T,
        torch.tensor([1.5, -2.0]).bfloat16(),
        torch.tensor(True),
        torch.zeros(2, 0, dtype=torch.complex64),
    ],
)
def test_round_trip(value: Any) -> None:
    got = round_trip({"v": value, "w": [value]})
    assert type(got["v"]) is type(value)
    if isinstance(value, torch.Tensor | np.ndarray):
        assert to_numpy(got["v"])[1] == to_numpy(value)[1]
        assert difference(got["w"][0], value, EXACT) == ""
        assert to_numpy(got["v"])[0].flags.writeable
    else:
        assert got["v"] == value


def test_other_objects_become_their_types_name() -> None:
    class Sly(float):
        pass

    got = round_trip(
        {"a": Sly(1.0), "b": np.array([object()]), "c": torch.nn.Parameter(torch.ones(1))}
    )
    assert all(type(value) is Foreign for value in got.values())


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header.encode() + data


def one_array(blob: bytes, kind: str = "numpy", dtype: str = "float32") -> tuple[bytes, bytes]:
    """The parts of a frame with one array that is made of this blob."""
    array = {"array": [0, len(blob)], "kind": kind, "dtype": dtype}
    return json.dumps({"dict": {"a": array}}).encode(), blob


def fields(descr: str, shape: str) -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}"


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


ARRAY = '{"dict": {"a": {"array": %s, "kind": "numpy", "dtype": "x"}}}'
FORGED = {
    "no JSON": (b"", b""),
    "no message": (b"[1]", b""),
    "a list for a dict": (b'{"dict": []}', b""),
    "a text for a list": (b'{"dict": {"a": {"list": "abc"}}}', b""),
    "a list for a name": (b'{"dict": {"a": {"object": ["x"]}}}', b""),
    "two kinds of value": (b'{"dict": {"a": {"list": [], "tuple": []}}}', b""),
    "an unknown kind": (b'{"dict": {"a": {"set": []}}}', b""),
    "a function": (b'{"dict": {"a": {"outside": 0}}}', b""),
    "beyond the frame": ((ARRAY % "[0, 99]").encode(), b""),
    "before the frame": ((ARRAY % "[-5, 3]").encode(), b"abc"),
    "of a negative length": ((ARRAY % "[0, -3]").encode(), b"abc"),
    "of three places": ((ARRAY % "[0, 1, 2]").encode(), b"abc"),
    "of a length that is none": ((ARRAY % "[0, 2.5]").encode(), b"abc"),
    "no npy": ((ARRAY % "[0, 3]").encode(), b"abc"),
    "lists that do not end": (b'{"list": ' * 5_000, b""),
    "deep JSON": (b"[" * 10**6, b""),
    "deep lists": (b'{"dict": {"a": ' + b'{"list": [' * 50 + b"]}" * 50 + b"}}", b""),
    "a long number": (b'{"dict": {"a": ' + b"9" * 5_000 + b"}}", b""),
    "another version": one_array(npy(fields("<f4", "(1,)") + " " * 7, bytes(4), b"\x02\x00")),
    "a header that cannot be parsed": one_array(npy("{'descr': " + "'" * 3 + "(" * 900)),
    "a nested header": one_array(npy("(" * 900)),
    "a long header": one_array(npy(fields("<f4", "(1,)") + " " * 2_000, bytes(4))),
    "more than there is": one_array(npy(fields("<f4", "(1000000000000000,)"))),
    "less than there is": one_array(npy(fields("<f4", "(1,)"), bytes(8))),
    "negative dimensions": one_array(npy(fields("<f4", "(-1, -1)"), bytes(4))),
    "pickles": one_array(pickled(), dtype="object"),
    "texts": one_array(npy(fields("<U1", "(1,)"), bytes(4))),
    "another kind": one_array(npy(fields("<f4", "(1,)"), bytes(4)), "torch", "quint8"),
    "16 times as large": one_array(npy(fields("|b1", "(8,)"), bytes(8)), "torch", "complex128"),
    "no dtype": one_array(npy(fields("<f4", "(1,)"), bytes(4)), "torch", "manual_seed"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_forged_frames_are_refused(name: str) -> None:
    with pytest.raises(WireError):
        decode(*FORGED[name])


def test_no_two_arrays_are_made_of_the_same_bytes() -> None:
    text, blobs = parts(encode({"a": np.zeros(64, np.uint8), "b": np.ones(64, np.uint8)}))
    first, second = f"[0, {len(blobs) // 2}]", f"[{len(blobs) // 2}, {len(blobs) // 2}]"
    assert decode(text, blobs)["b"].all()
    for place in (first, "[1, 191]"):
        with pytest.raises(WireError, match="behind the one before"):
            decode(text.replace(second.encode(), place.encode()), blobs)


def test_no_more_arrays_than_can_be_read_in_a_moment() -> None:
    arrays = {str(i): np.zeros(0) for i in range(MAX_ARRAYS)}
    text, blobs = parts(encode(arrays))
    assert len(decode(text, blobs)) == MAX_ARRAYS
    with pytest.raises(WireError, match="more than 4096 arrays"):
        encode(arrays | {"one more": np.zeros(0)})
    size = len(blobs) // MAX_ARRAYS
    more = f', "one more": {{"array": [{len(blobs)}, {size}], "kind": "numpy", "dtype": "f"}}}}}}'
    with pytest.raises(WireError, match="more than 4096 arrays"):
        decode(text[:-2] + more.encode(), blobs + blobs[:size])


def test_what_is_too_large_is_refused_where_it_is_made() -> None:
    with pytest.raises(WireError, match="too large"):
        encode({"a": np.zeros(2**27, dtype=np.uint8)})
    with pytest.raises(WireError, match="too large"):
        encode({"a": [np.zeros(2**25, dtype=np.uint8)] * 2})
    with pytest.raises(WireError, match="bytes without arrays, more than 100"):
        encode({"a": "x" * 100, "b": np.zeros(200)}, most_text=100)


def test_a_function_crosses_as_its_place_and_is_called_by_it() -> None:
    kept: list[Outside] = []
    functions = [Outside(abs, 3), Outside(len, 3)]
    text, blobs = parts(encode({"f": functions[0], "g": [functions[1]]}, outside=kept))
    assert kept == functions
    decoded = decode(text, blobs, lambda place, *arguments: (place, arguments))
    assert decoded["f"](-2) == (0, (-2,))
    assert decoded["g"][0]("a", "b") == (1, ("a", "b"))
    assert type(round_trip({"f": functions[0]})["f"]) is Foreign


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["dict", "list", "tuple", "array", "object", "outside", "kind", "dtype"])
        | st.text(),
        inner,
    ),
)  # fmt: skip
TEXTS = st.binary() | JSON.map(lambda value: json.dumps({"dict": {"a": value}}).encode())
BLOBS = st.binary() | st.tuples(st.text(), st.binary()).map(lambda two: npy(*two)[:65_000])


@settings(max_examples=300, deadline=None)
@given(TEXTS, BLOBS)
def test_whatever_comes_it_is_a_message_or_refused(text: bytes, blobs: bytes) -> None:
    with suppress(WireError):
        assert type(decode(text, blobs)) is dict


HEADERS = st.text() | st.builds(
    lambda descr, order, shape: fields(descr, shape).replace("False", str(order)),
    st.sampled_from(["<f4", "|b1", ">c16", "|O", "<f16", "V7", "<M8[s]", "<U3", ""]) | st.text(),
    st.booleans() | st.integers(),
    st.lists(st.integers(-2, 9) | st.integers()).map(tuple) | st.text().map(repr),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(HEADERS, st.binary(max_size=64), st.sampled_from(["numpy", "torch"]), st.text())
@pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning")
def test_whatever_an_array_says_it_is_as_large_as_its_bytes_or_refused(
    header: str, data: bytes, kind: str, dtype: str
) -> None:
    blob = npy(header, data)
    try:
        made = decode(*one_array(blob, kind, dtype))["a"]
    except WireError:
        return
    assert to_numpy(made)[0].nbytes <= len(data)
