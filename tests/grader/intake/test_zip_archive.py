"""Zips that lie, and zips that platforms write in unusual ways."""

import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from intake_kit import LAB, MIB, Answer, Make, Stream, Take, between, judged, special, states

from grader.course import Course
from grader.intake import zip_archive
from grader.intake.placing import State


def test_a_bomb_is_stopped_while_it_is_read(
    own: Course, answer: Answer, zipped: Make, take: Take, tmp_path: Path
) -> None:
    """Headers that lie about the size change nothing."""
    good = (f"eve/{LAB}.ipynb", answer("eve"))
    path = zipped(*between(answer, ("eve/bomb.csv", bytes(19 * MIB)), good))
    lying = path.read_bytes().replace(struct.pack("<I", 19 * MIB), struct.pack("<I", 10))
    path.write_bytes(lying)
    state, reason = judged(take(path), own)
    assert state in (State.REFUSED, State.COLLECTED)
    assert "damaged" in reason or "200 times" in reason
    honest_headers = zipped(*between(answer, ("eve/bomb.csv", bytes(19 * MIB)), good))
    assert "over 200 times its size" in " ".join(
        each.why for each in take(honest_headers).submissions
    )


def test_a_damaged_member_of_a_zip(own: Course, answer: Answer, zipped: Make, take: Take) -> None:
    path = zipped(*between(answer, (f"eve/{LAB}.ipynb", answer("eve" * 500))))
    content = bytearray(path.read_bytes())
    at = content.find(b"eve/") + len(f"eve/{LAB}.ipynb") + 30
    content[at : at + 20] = bytes(20)
    path.write_bytes(content)
    state, reason = judged(take(path), own)
    assert state is State.REFUSED
    assert "it is damaged" in reason


def test_encrypted_and_unusual_members(
    own: Course, answer: Answer, tmp_path: Path, take: Take, zipped: Make
) -> None:
    odd = zipfile.ZipInfo(f"eve/{LAB}.ipynb")
    odd.compress_type = zipfile.ZIP_LZMA
    path = tmp_path / "odd.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in between(answer, (odd, answer("eve"))):
            archive.writestr(name, content)
    assert "packed in an unusual way" in judged(take(path), own)[1]
    path = zipped((f"ben/{LAB}.ipynb", answer("ben")), name="locked.zip")
    content = path.read_bytes()
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(magic) + offset
        content = content[:at] + b"\x01" + content[at + 1 :]
    path.write_bytes(content)
    (ben,) = take(path).submissions
    assert "it is encrypted" in ben.why


def test_the_directory_of_a_zip_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    size = zip_archive.ZIP_DIRECTORY_BYTES + 1
    path.write_bytes(
        b"PK\x03\x04" + bytes(size) + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, size, 4, 0)
    )
    asked: list[int] = []

    class Watched(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            asked.append(-1 if size is None else size)
            return super().read(size)

    with Watched(path) as file, pytest.raises(ValueError, match="directory is larger"):
        zip_archive.Zip(path, file)
    assert 0 <= min(asked) <= max(asked) <= zip_archive.ZIP_DIRECTORY_BYTES + 1


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("zip64", [False, True])
def test_data_descriptors_and_zip64(
    own: Course, answer: Answer, take: Take, tmp_path: Path, streamed: bool, zip64: bool
) -> None:
    """Moodle streams its zips, with sizes for which 32 bits would not do."""
    buffer = Stream() if streamed else io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("Ada Doe_1_assignsubmission_file", "Ben Roe_2_assignsubmission_file_"):
            info = zipfile.ZipInfo(f"{name}/{LAB}.ipynb")
            with archive.open(info, "w", force_zip64=zip64) as file:
                file.write(answer(name))
    assert (buffer.getvalue()[6] & 8 == 8) == streamed
    path = tmp_path / "moodle.zip"
    path.write_bytes(buffer.getvalue())
    assert states(take(path)) == {"ada-doe": "collected", "ben-roe": "collected"}


def test_names_in_utf_8_without_the_flag(answer: Answer, zipped: Make, take: Take) -> None:
    """So Canvas's packer writes them; names in the old code page are read as such."""
    path = zipped(
        (f"m\xfcllerzo\xeb_1_2_{LAB}.ipynb", answer()), (f"aXb_3_4_{LAB}.ipynb", answer())
    )
    content = bytearray(path.read_bytes().replace(b"aXb_", b"a\x81b_"))
    for magic, offset in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):
        at = content.find(magic)
        assert content[at + offset] & 8
        content[at + offset] ^= 8
    path.write_bytes(content)
    sources = {each.source for each in take(path).submissions}
    assert sources == {"m\xfcllerzo\xeb_1", "a\xfcb_3"}


def test_what_a_link_is_in_a_zip(own: Course, answer: Answer, zipped: Make, take: Take) -> None:
    """By its mode of Unix or its attribute of Windows."""
    unix = special("eve/a.py", stat.S_IFLNK | 0o777)
    windows = zipfile.ZipInfo("eve/b.py")
    windows.external_attr = 0x400
    good = (f"eve/{LAB}.ipynb", answer("eve"))
    manifest = take(zipped(*between(answer, (unix, b"/etc/passwd"), (windows, b"C:/x"), good)))
    assert judged(manifest, own) == (State.COLLECTED, "it is a link")
    (eve,) = (each for each in manifest.submissions if each.student == "eve")
    assert len(eve.refused) == 2
