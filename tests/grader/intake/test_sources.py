"""Hostile folders and archives: nothing is followed, nothing believed, one costs no other."""

import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from grader.course import Course
from grader.intake import archives, collection, reading, sources
from grader.intake.layouts import layouts
from grader.intake.limits import Limits
from grader.intake.manifest import Manifest
from grader.intake.placing import State

LAB = "lab01_tiny"
MIB = 2**20
HONEST = ("ann", "zoe")
NUL_NAME = "eve/a.py?.py"  # zipfile cannot write the NUL itself
Take = Callable[..., Manifest]
Make = Callable[..., Path]


def between(answer: Callable[..., bytes], *hostile: tuple) -> list[tuple]:
    """Entries with an honest student before and one after the hostile ones."""
    first, last = ((f"{name}/{LAB}.ipynb", answer(name)) for name in HONEST)
    return [first, *hostile, last]


def judged(manifest: Manifest, own: Course, student: str = "eve") -> tuple[State, str]:
    """What became of the hostile student; the honest ones must have been collected."""
    by_student = {each.student: each for each in manifest.submissions}
    for name in HONEST:
        assert by_student[name].state is State.COLLECTED
        assert own.submitted(LAB, name).is_file()
    eve = by_student[student]
    assert own.submitted(LAB, student).exists() == (eve.state is State.COLLECTED)
    reasons = [eve.why, *(refused.why for refused in eve.refused)]
    return eve.state, " | ".join(dict.fromkeys(filter(None, reasons)))


def special(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def tar_special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("eve/../../../x.py", "leaves the submission"),
        ("eve/lab//x.py", "leaves the submission"),
        ("eve/a\\..\\x.py", "name has \\"),
        (NUL_NAME, "control characters"),
        ("eve/x\n.py", "control characters"),
        ("eve/con.py", "Windows"),
        ("eve/C:x.py", "name has :"),
        ("eve/1/2/3/4/5/6/7/8/9/x.py", "deeper than 8"),
    ],
)
def test_a_path_trick_costs_its_submission(
    own: Course, answer: Callable[..., bytes], zipped: Make, take: Take, name: str, why: str
) -> None:
    good = (f"eve/{LAB}.ipynb", answer("eve"))
    path = zipped(*between(answer, good, (name, b"x")))
    path.write_bytes(path.read_bytes().replace(NUL_NAME.encode(), b"eve/a.py\0.py"))
    state, reason = judged(take(path), own)
    assert state is State.REFUSED
    assert why in reason


@pytest.mark.parametrize("name", ["/eve/x.py", "../eve/x.py", "C:/eve/x.py", "x.py"])
def test_a_path_that_is_nobodys_is_a_stray(
    own: Course, answer: Callable[..., bytes], zipped: Make, take: Take, name: str
) -> None:
    eve = (f"eve/{LAB}.ipynb", answer("eve"))
    manifest = take(zipped(*between(answer, eve, (name, b"x"))), layout="folder")
    assert [stray.path for stray in manifest.strays] == [name]
    assert judged(manifest, own)[0] is State.COLLECTED


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("A.py", "a.py"),
        ("\xe9.py", "e\u0301.py"),
        ("x.py", "x.py"),
        ("a.py/b.py", "A.py"),
        ("A.py", "a.py/b.py"),
        (f"{LAB}.ipynb", f"{LAB}.IPYNB"),
    ],
)
def test_names_that_collide_somewhere(
    own: Course,
    answer: Callable[..., bytes],
    tarred: Make,
    take: Take,
    first: str,
    second: str,
) -> None:
    entries = [(f"eve/{name}", answer("eve")) for name in (first, second)]
    state, reason = judged(take(tarred(*between(answer, *entries))), own)
    assert (state, reason) == (
        State.REFUSED,
        "two of its files would be the same on some system",
    )


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (special("eve/link.py", stat.S_IFLNK | 0o777), "it is a link"),
        (special("eve/pipe.py", stat.S_IFIFO | 0o666), "it is a device, pipe or socket"),
        (special("eve/disk.py", stat.S_IFBLK | 0o666), "it is a device, pipe or socket"),
        (zipfile.ZipInfo("eve/inner.zip"), "archives are not opened"),
        (zipfile.ZipInfo("eve/inner.TAR.GZ"), "archives are not opened"),
        (zipfile.ZipInfo("eve/run.exe"), "files of type .exe are not taken"),
        (zipfile.ZipInfo("eve/Makefile"), "files of type without a suffix are not taken"),
    ],
)
def test_a_file_that_is_not_taken_costs_only_itself(
    own: Course,
    answer: Callable[..., bytes],
    zipped: Make,
    take: Take,
    entry: zipfile.ZipInfo,
    why: str,
) -> None:
    good = (f"eve/{LAB}.ipynb", answer("eve"))
    manifest = take(zipped(*between(answer, (entry, b"/etc/passwd"), good)))
    state, reason = judged(manifest, own)
    assert state is State.COLLECTED
    assert why in reason
    assert len(list(own.submitted(LAB, "eve").parent.iterdir())) == 2


@pytest.mark.parametrize("packing", ["", "gz", "xz"])
@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
)
def test_links_and_devices_in_a_tar(
    own: Course,
    answer: Callable[..., bytes],
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


def test_links_pipes_and_swapped_folders_on_a_disk(
    own: Course, answer: Callable[..., bytes], take: Take, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.ipynb"
    secret.write_bytes(answer("secret"))
    source = tmp_path / "source"
    for name in (*HONEST, "eve"):
        (source / name).mkdir(parents=True)
        (source / name / f"{LAB}.ipynb").write_bytes(answer(name))
    (source / "eve" / "link.ipynb").symlink_to(secret)
    (source / "eve" / "hard.ipynb").hardlink_to(secret)
    (source / "eve" / "up").symlink_to(tmp_path)
    (source / "fox").symlink_to(source / "ann")
    os.mkfifo(source / "eve" / "pipe.py")
    (source / "eve" / "odd\udcff.py").touch()
    state, reason = judged(take(source), own)
    assert state is State.REFUSED  # for the name that is no text
    (source / "eve" / "odd\udcff.py").unlink()
    state, reason = judged_again(take(source))
    assert state is State.COLLECTED
    assert reason.count("link") == 1
    assert "pipe" in reason
    assert [p.name for p in own.submitted(LAB, "eve").parent.iterdir() if p.suffix == ".ipynb"] == [
        f"{LAB}.ipynb"
    ]
    assert not own.submitted(LAB, "fox").exists()


def judged_again(manifest: Manifest) -> tuple[State, str]:
    eve = next(each for each in manifest.submissions if each.student == "eve")
    return eve.state, " | ".join(dict.fromkeys(refused.why for refused in eve.refused))


def test_a_file_swapped_for_a_link_while_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "x.py").write_text("x")
    members = sources.Folder(tmp_path / "source").members(lambda _: True)
    member = next(members)
    (tmp_path / "source" / "x.py").unlink()
    for swap in (Path.symlink_to, Path.hardlink_to):
        swap(tmp_path / "source" / "x.py", tmp_path / "secret")
        with pytest.raises(sources.RefusedError), member.open() as file:
            file.read()
        (tmp_path / "source" / "x.py").unlink()


def test_a_folder_swapped_for_a_link_while_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "x.py").write_text("secret")
    (tmp_path / "source" / "eve").mkdir(parents=True)
    members = sources.Folder(tmp_path / "source").members(lambda _: True)
    assert next(members).kind == sources.FOLDER
    (tmp_path / "source" / "eve").rmdir()
    (tmp_path / "source" / "eve").symlink_to(tmp_path / "secrets")
    assert [(member.path, member.kind) for member in members] == [("eve", sources.OTHER)]


def test_a_file_that_grows_while_it_is_read(tmp_path: Path) -> None:
    """What was read counts, not what the file was listed with."""

    class Growing:
        def names(self) -> list[str]:
            return []

        def members(self, _: object) -> Iterator[sources.Member]:
            content = lambda: nullcontext(io.BytesIO(bytes(5_001)))  # noqa: E731
            yield sources.Member(path="eve/x.py", kind=sources.FILE, size=0, open=content)

    layout = layouts(LAB, [], "")["folder"]
    reader = reading.Reading(LAB, layout, Limits(file_bytes=5_000), tmp_path)
    reader.run(Growing())
    assert reader.submissions["eve"].refused == [("eve/x.py", "it is larger than 5000 bytes")]
    assert list(tmp_path.iterdir()) == []


def test_a_bomb_is_stopped_while_it_is_read(
    own: Course, answer: Callable[..., bytes], zipped: Make, take: Take, tmp_path: Path
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


@pytest.mark.parametrize(
    ("limits", "files", "whole", "why"),
    [
        ({"file_bytes": 5_000}, [5_001], False, "larger than 5000 bytes"),
        ({"submission_bytes": 9_000}, [4_000, 4_500], True, "more than 9000 bytes"),
        ({"submission_files": 3}, [1, 1, 1], True, "more than 3 files"),
    ],
)
def test_limits(
    own: Course,
    answer: Callable[..., bytes],
    tarred: Make,
    take: Take,
    limits: dict[str, int],
    files: list[int],
    whole: bool,
    why: str,
) -> None:
    extra = [(f"eve/{i}.csv", os.urandom(size)) for i, size in enumerate(files)]
    source = tarred(*between(answer, (f"eve/{LAB}.ipynb", answer("eve")), *extra))
    state, reason = judged(take(source, limits=Limits(**limits)), own)
    assert state is (State.REFUSED if whole else State.COLLECTED)
    assert why in reason


def test_a_hundred_thousand_files(
    own: Course, answer: Callable[..., bytes], zipped: Make, take: Take
) -> None:
    many = ((f"eve/{i}.py", b"") for i in range(100_000))
    state, reason = judged(take(zipped(*between(answer, *many))), own)
    assert (state, reason) == (State.REFUSED, "it has more than 200 files and folders")


def test_a_tar_that_unpacks_without_end_keeps_what_came_before(
    own: Course, answer: Callable[..., bytes], tarred: Make, take: Take
) -> None:
    source = tarred((f"ann/{LAB}.ipynb", answer("ann")), ("eve/x.csv", bytes(300 * MIB)))
    manifest = take(source)
    assert "it unpacks to more than 200 times its size" in manifest.damage
    assert {each.student: each.state for each in manifest.submissions} == {
        "ann": State.COLLECTED,
        "eve": State.REFUSED,
    }


def test_all_submissions_together_are_limited(
    own: Course, answer: Callable[..., bytes], zipped: Make, take: Take
) -> None:
    size = len(answer("ann"))
    entries = [(f"s{i}/{LAB}.ipynb", answer("ann")) for i in range(5)]
    manifest = take(zipped(*entries), limits=Limits(total_bytes=3 * size + 1))
    assert "all submissions have more than" in manifest.damage
    assert [each.state.value for each in manifest.submissions] == ["collected"] * 3 + ["refused"]


@pytest.mark.parametrize("packing", ["gz", "xz", ""])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_cut_off_tar(
    own: Course,
    answer: Callable[..., bytes],
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


def test_a_damaged_member_of_a_zip(
    own: Course, answer: Callable[..., bytes], zipped: Make, take: Take
) -> None:
    path = zipped(*between(answer, (f"eve/{LAB}.ipynb", answer("eve" * 500))))
    content = bytearray(path.read_bytes())
    at = content.find(b"eve/") + len(f"eve/{LAB}.ipynb") + 30
    content[at : at + 20] = bytes(20)
    path.write_bytes(content)
    state, reason = judged(take(path), own)
    assert state is State.REFUSED
    assert "it is damaged" in reason


def test_encrypted_and_unusual_members(
    own: Course, answer: Callable[..., bytes], tmp_path: Path, take: Take, zipped: Make
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
    assert "it is encrypted" in [refused.why for refused in ben.refused]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK" * 5000, b"\x1f\x8b", b"no archive"])
def test_what_is_no_archive(own: Course, take: Take, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    if content == b"\x1f\x8b":
        assert take(path).damage
    else:
        with pytest.raises(ValueError, match=r"x\.zip"):
            take(path)
    with pytest.raises(ValueError, match="there is no folder and no archive"):
        take(tmp_path / "nowhere")


def test_the_directory_of_a_zip_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    size = archives.ZIP_DIRECTORY_BYTES + 1
    path.write_bytes(
        b"PK\x03\x04" + bytes(size) + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, size, 4, 0)
    )
    with pytest.raises(ValueError, match="directory is larger"), archives.opened(path, Limits()):
        pass


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_the_headers_of_a_tar_are_bounded(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "x.tar"
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 50 * MIB
    path.write_bytes(info.tobuf() + bytes(50 * MIB))
    with (
        archives.opened(path, Limits()) as source,
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
        archives.opened(path, Limits()) as source,
        pytest.raises(sources.SourceError, match="Memory usage limit"),
    ):
        list(source.members(lambda _: True))


def test_a_folder_that_hides_millions_of_files_is_left_early(
    own: Course, answer: Callable[..., bytes], take: Take, tmp_path: Path, monkeypatch
) -> None:
    source = tmp_path / "source"
    for name in (*HONEST, "eve"):
        (source / name / "data").mkdir(parents=True)
        (source / name / f"{LAB}.ipynb").write_bytes(answer(name))
    for i in range(3000):
        (source / "eve" / "data" / f"{i}.py").touch()
    seen = []
    real = reading.Reading._take
    monkeypatch.setattr(
        reading.Reading, "_take", lambda self, member: (seen.append(1), real(self, member))
    )
    state, reason = judged(take(source), own)
    assert state is State.REFUSED
    assert "more than 200 files" in reason
    assert len(seen) < 300


def test_two_collectings_at_a_time(own: Course, take: Take, tmp_path: Path) -> None:
    with (
        collection._staging(own, dry_run=False),
        pytest.raises(ValueError, match="another `grader collect` is running"),
    ):
        take(tmp_path)
    take(own.root / "labs")
