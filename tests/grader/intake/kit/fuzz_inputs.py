"""Notebooks and archives to try, as hypothesis strategies: whole ones, then bent and broken.

An archive is built of entries whose names, types, sizes, times, extra fields and content are odd;
the bytes are changed afterwards, and a tar's checksums are made right again, or no reader would
look at what they guard.
"""

import copy
import io
import json
import lzma
import tarfile
import warnings
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from intake_kit import MIB, Stream

from grader.notebooks import Notebook

STAMP = "2026-03-01 12:00:00.5 UTC+ab"
TOKENS = [
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\\ud800", b"\\u0000", b"NaN", b"1e999"),
    *(b"null", b"true", b"-", b"\xff", b"\xef\xbb\xbf", b"[" * 2000, b"9" * 5000, b'{"a":' * 200),
    *(b'"cells"', b'"source"', b'"metadata"', b'"nbgrader"', b'"grade_id"', b'"nbformat"'),
    *(b"../", b"/", b"\0", b"\n", b"C:", b"con", b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6"),
    *(b"\0" * 512, b"\xff" * 4, b"\x80" + b"\xff" * 11, b"00000000000", b"77777777777", b"ustar"),
    *(b"17 path=../../x\n", b"20 size=99999999999\n", b"22 GNU.sparse.major=1\n"),
]
ODD_VALUES = [
    *(None, True, 4, 3, -1, 10**4000, 1.5, "", "code", "markdown", "\ud800", "\0", "x" * 100_000),
    *([], {}, [[]], [None], ["a", 1], {"": {}}, {"nbgrader": {"grade_id": ["a"]}}, [{}] * 2001),
    *({"image/png": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAAB"}, {"image/png": ["====", 1]}, {"data": 1}),
]
Change = tuple[str, float, int, bytes]
Graft = tuple[str, float, Any]


def changes(most: int = 6) -> st.SearchStrategy[list[Change]]:
    """What to do, where (as a share of the length), how far, with what."""
    what = st.sampled_from(["flip", "set", "insert", "cut", "copy", "end"])
    payload = st.sampled_from(TOKENS) | st.binary(min_size=1, max_size=8)
    return st.lists(st.tuples(what, st.floats(0, 1), st.integers(1, 600), payload), max_size=most)


def changed(seed: bytes, todo: list[Change]) -> bytes:
    content = bytearray(seed)
    for what, where, length, payload in todo:
        at = int(where * len(content))
        if what == "flip" and at < len(content):
            content[at] ^= 1 << length % 8
        elif what == "set":
            content[at : at + len(payload)] = payload
        elif what == "insert":
            content[at:at] = payload
        elif what == "cut":
            del content[at : at + length]
        elif what == "copy":
            content[at:at] = content[at : at + length] * (1 + length % 3)
        elif what == "end":
            del content[at:]
    return bytes(content)


def grafts() -> st.SearchStrategy[list[Graft]]:
    """What to do to a notebook that stays JSON, where, with what."""
    what = st.sampled_from(["set", "set", "delete", "twice", "move", "wrap"])
    return st.lists(st.tuples(what, st.floats(0, 1), st.sampled_from(ODD_VALUES)), max_size=6)


def grafted(notebook: Notebook, todo: list[Graft]) -> bytes:
    """A notebook with odd values in places, and with parts doubled, moved, wrapped, deleted."""
    made: Any = copy.deepcopy(notebook)
    for what, where, value in todo:
        found = _places(made)
        container, key = found[int(where * (len(found) - 1))] if found else (made, "cells")
        if what == "delete" and found:
            del container[key]
        elif what == "twice" and isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        elif what == "move" and isinstance(container, list):
            container.insert(int(where * len(container)), container.pop())
        elif what == "wrap" and found:
            container[key] = [container[key]]
        else:
            container[key] = copy.deepcopy(value)
    return json.dumps(made).encode()


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a value with every key of it."""
    found = [(value, key) for key in (value if isinstance(value, dict) else range(len(value)))]
    inner = [value[key] for _, key in found if isinstance(value[key], dict | list)]
    return found + [place for child in inner for place in _places(child)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """An entry of an archive: what any archive says of one, and what each kind says besides."""

    name: str
    content: bytes
    mode: int = 0o100644
    time: float = 1e9
    size: int | None = None
    packing: int = zipfile.ZIP_DEFLATED
    flags: int = 0
    extra: bytes = b""
    version: int = 20
    kind: bytes = tarfile.REGTYPE
    link: str = ""
    pax: dict[str, str] = field(default_factory=dict)


def names(lab: str) -> st.SearchStrategy[str]:
    """Paths as platforms make them, and as nobody should."""
    odd = st.text(st.sampled_from("aA.\\/:_+\0\n\udcff é\u0301小\u202e~*0") | st.characters())
    parts = odd.map(lambda text: text[:20]) | st.sampled_from(
        [
            *("..", ".", "", "ada", lab, f"{lab}.ipynb", "con", "A_1_assignsubmission_file_"),
            *("a_1_2_x.py", "timestamp.txt", ".git", "x.zip", "x.", "x ", "é.py", "e\u0301.py"),
            "x" * 300,
        ]
    )
    whole = st.sampled_from(
        [
            f"ada/{lab}/{lab}.ipynb",
            f"ben/{lab}.ipynb",
            "Eli Roe_12_assignsubmission_file_/final.ipynb",
            "Eli Roe_12_assignsubmission_onlinetext_/onlinetext.html",
            "doeflo_LATE_12_345_lab-1.ipynb",
            f"gus+{lab}+{STAMP}/{lab}.ipynb",
            f"{lab.replace('_', '-')}-hal/labs/{lab}/{lab}.ipynb",
        ]
    )
    return whole | st.lists(parts, max_size=6).map("/".join)


def entries(lab: str, book: bytes) -> st.SearchStrategy[list[Entry]]:
    numbers = st.sampled_from([0, 1, 511, 512, 2**31, 2**32 - 1, 2**33, 2**62])
    keys = ["path", "linkpath", "size", "mtime", "GNU.sparse.major", "GNU.sparse.minor"]
    keys += ["GNU.sparse.realsize", "GNU.sparse.map", "GNU.sparse.name", "hdrcharset", "comment"]
    values = ["../../x", "/etc/x", "1", "0", "-1", "99999999999", "nan", "BINARY", "\0", "x" * 9000]
    fields = {
        "mode": st.sampled_from([0, 0o120777, 0o040755, 0o010644, 0o060644, 0o177777]),
        "time": st.sampled_from([0.0, -1.0, 1e11, 1e300, float("nan"), float("inf")]),
        "size": numbers,
        "packing": st.sampled_from([0, 12, 14, 99]),
        "flags": st.sampled_from([1, 8, 0x20, 0x40, 0x800, 0x2000, 0xFFFF]),
        "extra": st.sampled_from([b"UT\5\0\1abcd", b"UT\xff\xff\1", b"\1\0\x10\0" + b"\xff" * 16])
        | st.binary(max_size=30),
        "version": st.sampled_from([45, 63, 255]),
        "kind": st.sampled_from([*(b"%c" % c for c in b"1234567LKSxgXVAM"), b"\0"]),
        "link": names(lab),
        "pax": st.dictionaries(st.sampled_from(keys), st.sampled_from(values), max_size=3),
    }
    odd = st.lists(st.sampled_from(sorted(fields)), max_size=2, unique=True)
    odd = odd.flatmap(lambda keys: st.fixed_dictionaries({key: fields[key] for key in keys}))
    entry = st.builds(
        lambda name, content, rest: Entry(name=name, content=content, **rest),
        names(lab),
        st.sampled_from(["book", "book", "zeros", "", "1\n0\n1\n"]).map(
            lambda text: {"book": book, "zeros": bytes(3 * MIB)}.get(text, text.encode())
        )
        | st.binary(),
        st.just({}) | odd,
    )
    return st.lists(entry, max_size=8)


def zip_of(members: list[Entry], *, streamed: bool, zip64: bool) -> bytes:
    buffer = Stream() if streamed else io.BytesIO()
    with warnings.catch_warnings(), suppress(OverflowError):
        warnings.simplefilter("ignore", UserWarning)  # of names that are there twice
        with zipfile.ZipFile(buffer, "w") as archive:
            for each in members:
                info = zipfile.ZipInfo("x")
                info.compress_type = each.packing if each.packing != 99 else zipfile.ZIP_STORED
                info.external_attr = each.mode << 16
                info.filename = each.name.encode("utf-8", "replace").decode()[:60_000] or "x"
                with archive.open(info, "w", force_zip64=zip64) as file:
                    file.write(each.content)
                info.compress_type, info.flag_bits = each.packing, info.flag_bits ^ each.flags
                info.extra, info.extract_version = each.extra, each.version
                info.file_size = info.file_size if each.size is None else each.size
    return buffer.getvalue()


def tar_of(members: list[Entry], form: int) -> bytes:
    made = bytearray()
    for each in members:
        info = tarfile.TarInfo(each.name.replace("\0", "") or "x")
        info.type, info.linkname, info.mode = each.kind, each.link, each.mode & 0o7777
        info.size = len(each.content) if each.size is None else each.size
        info.mtime, info.pax_headers = int(each.time) if abs(each.time) < 1e12 else 0, each.pax
        with suppress(ValueError):  # a header of this form cannot say it
            made += info.tobuf(form, errors="surrogateescape")
            made += each.content.ljust(-(-len(each.content) // 512) * 512, b"\0")
    return bytes(made) + bytes(1024)


def with_right_checksums(tar: bytes) -> bytes:
    content = bytearray(tar)
    for at in range(0, len(content) - 511, 512):
        if content[at + 257 : at + 262] == b"ustar":
            content[at + 148 : at + 156] = b" " * 8
            content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
    return bytes(content)


def packed(content: bytes, packing: str) -> bytes:
    if packing == "gz":
        encoder = zlib.compressobj(1, wbits=31)
        return encoder.compress(content) + encoder.flush()
    return lzma.compress(content, preset=0) if packing == "xz" else content


def archives(lab: str, book: bytes) -> st.SearchStrategy[bytes]:
    """Zips and tars, half of them with their bytes changed too."""
    several, few = entries(lab, book), changes(3) | st.just([])
    zips = st.builds(
        lambda members, streamed, zip64, todo: changed(
            zip_of(members, streamed=streamed, zip64=zip64), todo
        ),
        *(several, st.booleans(), st.booleans(), few),
    )
    forms = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
    tars = st.builds(
        lambda members, form, inside, packing, todo: changed(
            packed(with_right_checksums(changed(tar_of(members, form), inside)), packing), todo
        ),
        *(several, forms, few, st.sampled_from(["", "gz", "xz"]), few),
    )
    return zips | tars
