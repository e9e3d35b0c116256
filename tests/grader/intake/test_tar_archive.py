"""Tars that lie, end early or want much."""

import io
import lzma
import os
import struct
import tarfile
import zlib
from pathlib import Path

import pytest
from intake_kit import LAB, MIB, Answer, Make, Take, between, judged, states, tar_special

from grader.course import Course
from grader.intake import sources
from grader.intake.archives import opened
from grader.intake.limits import Limits
from grader.intake.placing import State


@pytest.mark.parametrize("packing", ["", "gz", "xz"])
@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
)
def test_links_and_devices_in_a_tar(
    own: Course,
    answer: Answer,
    tarred: Make,
    take: Take,
    kind: bytes,
    packing: str,
) -> None:
    hostile = tar_special(f"eve/{LAB}.ipynb", kind, f"ann/{LAB}.ipynb")
    state, reason = judged(take(tarred(*between(answer, (hostile, b"")), packing=packing)), own)
    assert state is State.REFUSED
    assert ("it is a link" in reason) == (kind in (tarfile.SYMTYPE, tarfile.LNKTYPE))
    assert ("it is a device" in reason) == (kind not in (tarfile.SYMTYPE, tarfile.LNKTYPE))
    assert "there is no notebook" in reason


@pytest.mark.parametrize("packing", ["gz", "xz", ""])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_cut_off_tar(
    own: Course,
    answer: Answer,
    tarred: Make,
    take: Take,
    packing: str,
    kept: float,
) -> None:
    noise = [(f"s{i}/x.npy", os.urandom(20_000)) for i in range(8)]
    books = [(f"s{i}/{LAB}.ipynb", answer(f"s{i}")) for i in range(8)]
    entries = [entry for pair in zip(books, noise, strict=True) for entry in pair]
    path = tarred(*entries, packing=packing)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    manifest = take(path)
    assert manifest.damage
    states = [each.state for each in manifest.submissions]
    assert states.count(State.REFUSED) == 1
    assert len(states) - 1 == len(list((own.root / "submitted").glob(f"*/{LAB}"))) > 1


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_the_headers_of_a_tar_are_bounded(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "x.tar"
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 50 * MIB
    path.write_bytes(info.tobuf() + bytes(50 * MIB))
    with (
        opened(path, Limits()) as source,
        pytest.raises(sources.SourceError, match="headers of more than"),
    ):
        list(source.members(lambda _: True))


def test_an_xz_that_wants_much_memory(tmp_path: Path) -> None:
    """A few bytes whose header asks for a dictionary of 1 GiB."""
    small = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 16}]
    content = bytearray(lzma.compress(bytes(10_000), filters=small))
    block = slice(12, 12 + (content[12] + 1) * 4)
    assert content[14] == lzma.FILTER_LZMA2
    content[16] = 36
    content[block.stop - 4 : block.stop] = struct.pack("<I", zlib.crc32(content[block][:-4]))
    path = tmp_path / "x.tar.xz"
    path.write_bytes(content)
    with (
        opened(path, Limits()) as source,
        pytest.raises(sources.SourceError, match="Memory usage limit"),
    ):
        list(source.members(lambda _: True))


@pytest.mark.parametrize("packing", ["gz", "xz"])
def test_a_bomb_in_a_tar_costs_nobody_else(
    own: Course, answer: Answer, tarred: Make, take: Take, packing: str
) -> None:
    bomb = (f"eve/{LAB}.ipynb", bytes(60 * MIB))
    state, reason = judged(take(tarred(*between(answer, bomb), packing=packing)), own)
    assert state is State.REFUSED
    assert "it is larger than" in reason


def test_a_tar_that_unpacks_without_end_keeps_what_came_before(
    own: Course, answer: Answer, tarred: Make, take: Take
) -> None:
    source = tarred((f"ann/{LAB}.ipynb", answer("ann")), ("eve/x.csv", bytes(30 * MIB)))
    manifest = take(source, limits=Limits(total_bytes=9 * MIB))
    assert f"it unpacks to more than {9 * MIB} bytes (see --max-total-mb)" in manifest.damage
    assert states(manifest) == {"ann": "collected", "eve": "refused"}


def test_an_end_in_what_is_nobodys_costs_nobody_anything(
    answer: Answer, tarred: Make, take: Take
) -> None:
    source = tarred((f"ann/{LAB}.ipynb", answer()), ("readme.txt", bytes(30 * MIB)))
    manifest = take(source, limits=Limits(total_bytes=9 * MIB), layout="folder")
    assert manifest.damage
    assert states(manifest) == {"ann": "collected"}


@pytest.mark.parametrize("size", [2**33, 2**62])
def test_a_header_that_says_much_follows_does_not_take_for_ever(
    answer: Answer, take: Take, tmp_path: Path, size: int
) -> None:
    """Tarfile would look for the end of 2**62 bytes block by block."""
    info = tarfile.TarInfo("eve/x.csv")
    info.size = size
    path = tmp_path / "x.tar"
    path.write_bytes(info.tobuf() + bytes(2048))
    manifest = take(path)
    assert manifest.damage
    assert states(manifest) == {"eve": "refused"}


@pytest.mark.parametrize("spoilt", ["checksum", "cut"])
def test_a_damaged_header_is_not_the_end(
    answer: Answer, tarred: Make, take: Take, spoilt: str
) -> None:
    """What comes after it is not passed over in silence."""
    path = tarred((f"ann/{LAB}.ipynb", answer()), (f"zoe/{LAB}.ipynb", answer()), packing="")
    content = bytearray(path.read_bytes())
    at = content.index(b"zoe/")
    content[at + 1] ^= 1
    path.write_bytes(content if spoilt == "checksum" else content[:at])
    manifest = take(path)
    assert "a header is damaged or missing" in manifest.damage
    assert states(manifest) == {"ann": "refused"}


@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        ({"path": "eve/../../x.ipynb"}, "leaves the submission"),
        ({"path": "/etc/x.ipynb"}, "leaves the source"),
        ({"path": "../eve/x.ipynb"}, "leaves the source"),
        ({"path": "eve/a\nb.ipynb"}, "control characters"),
        ({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, "it is a file with holes"),
        ({"GNU.sparse.map": "0,1", "GNU.sparse.size": "10"}, "it is a file with holes"),
    ],
)
def test_extended_headers_that_lead_astray(
    own: Course, answer: Answer, tarred: Make, take: Take, headers: dict[str, str], sentence: str
) -> None:
    info = tarfile.TarInfo("eve/honest.ipynb")
    info.pax_headers = headers
    content = b"1\n0\n1\n".ljust(512, b"\0") + answer()
    manifest = take(tarred(*between(answer, (info, content))))
    reasons = [refused.why for each in manifest.submissions for refused in each.refused]
    assert sentence in " | ".join([*reasons, *(stray.why for stray in manifest.strays)])
    assert {path.name for path in (own.root / "submitted").iterdir()} == {"ann", "zoe"}


def test_a_global_header_renames_nobody(answer: Answer, take: Take, tmp_path: Path) -> None:
    """`git archive` writes one, with a comment; one with a path would be for all that follows."""
    header = tarfile.TarInfo.create_pax_global_header({"comment": "x", "path": "eve/x.ipynb"})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("ann", "zoe"):
            info = tarfile.TarInfo(f"{name}/{LAB}.ipynb")
            info.size = len(answer())
            archive.addfile(info, io.BytesIO(answer()))
    path = tmp_path / "x.tar"
    path.write_bytes(header + buffer.getvalue())
    assert states(take(path))["zoe"] == "collected"
