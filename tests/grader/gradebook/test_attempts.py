"""Attempts as folders: what counts as their content, and how they are copied and put in place."""

import errno
import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from grader.course import Course
from grader.gradebook import attempts as module
from grader.gradebook.attempts import (
    attempts,
    clear,
    content_sha256,
    is_folder,
    keep,
    put,
    received,
)

LONG = "x" * 250


def made(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    os.utime(folder, (1e9, 1e9))
    return folder


def test_the_hash_is_of_contents_and_paths(tmp_path: Path) -> None:
    folders = [
        made(tmp_path / "0", a="1", b="2"),
        made(tmp_path / "1", a="2", b="1"),
        made(tmp_path / "2", a="1", c="2"),
        made(tmp_path / "3", a="1", d__b="2"),
        made(tmp_path / "4", a="1"),
        made(tmp_path / "5", a="1", b="2", c=""),
    ]
    hashes = [content_sha256(folder) for folder in folders]
    assert len(set(hashes)) == len(folders)
    (folders[0] / "timestamp.txt").write_text("1999")
    (folders[0] / "empty").mkdir()
    assert content_sha256(folders[0]) == hashes[0]
    made(folders[0] / "d", **{"timestamp.txt": "1999"})
    assert content_sha256(folders[0]) != hashes[0]


def test_a_name_cannot_pose_as_another_files_hash(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"").hexdigest()
    one = made(tmp_path / "one", **{f"a\n{digest} b": "1"})
    two = made(tmp_path / "two", a="1", b="")
    assert content_sha256(one) != content_sha256(two)


def odd(folder: Path, levels: int) -> Path:
    """Links, a pipe, and folders in one another, each with a name of 250 bytes."""
    folder.mkdir(exist_ok=True)
    (folder / "link.py").symlink_to("/etc/passwd")
    (folder / "links").symlink_to("/etc")
    (folder / "dangling").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.py")
    inner = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(LONG, dir_fd=inner)
        outer, inner = inner, os.open(LONG, os.O_RDONLY, dir_fd=inner)
        os.close(outer)
    os.close(os.open("deep.py", os.O_CREAT | os.O_WRONLY, dir_fd=inner))
    os.close(inner)
    return folder


@pytest.mark.parametrize("levels", [12, 26])
def test_what_cannot_be_graded_is_in_no_hash_and_no_copy(tmp_path: Path, levels: int) -> None:
    """Nor what lies so deep that only some places have room for its path, or none has."""
    plain, other = made(tmp_path / "plain", a="1"), odd(made(tmp_path / "odd", a="1"), levels)
    os.utime(other, (1e9, 1e9))
    assert content_sha256(other) == content_sha256(plain)
    put(other, tmp_path / "copy")
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["a"]
    put(plain, other)  # what lay there is removed, however deep it is
    assert [path.name for path in other.iterdir()] == ["a"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_folders_by_the_thousand_in_one_another(tmp_path: Path) -> None:
    folder = made(tmp_path / "a", a="1")
    inner = os.open(folder, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("x", dir_fd=inner)
        outer, inner = inner, os.open("x", os.O_RDONLY, dir_fd=inner)
        os.close(outer)
    os.close(inner)
    found = content_sha256(folder)
    subprocess.run(["rm", "-rf", folder], check=True)  # Python's own way is recursive
    assert found == content_sha256(made(tmp_path / "b", a="1"))


def test_what_may_not_be_read_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(tmp_path / "a", a="1", b="2", d__c="3")
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if Path(path).name == "d":
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(module.os, "scandir", refusing)
    monkeypatch.setattr(module.os, "access", lambda entry, mode: entry.name != "b")
    assert content_sha256(folder) == content_sha256(made(tmp_path / "x", a="1"))
    kept = keep(folder, tmp_path / "kept")
    assert [path.name for path in kept.iterdir()] == ["a"]


def test_attempts_are_numbered_and_keep_their_receipt(tmp_path: Path) -> None:
    course = Course(root=tmp_path)
    place = tmp_path / "attempts" / "lab" / "ada"
    for number in (2, 10):
        made(place / str(number), a=str(number))
    made(place / ".attempt+x", a="")
    kept = keep(made(tmp_path / "new", a="new"), place)
    assert [path.name for path in attempts(course, "lab", "ada")] == ["2", "10", "11"]
    assert received(kept) == 1e9


@pytest.mark.parametrize("exchanges", [True, False])
def test_what_was_in_the_place_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    """Also where the file system cannot exchange two folders."""
    if not exchanges:

        def refusing(*_: object) -> int:
            raise OSError(errno.EINVAL, "renameat2")

        monkeypatch.setattr(module, "call", refusing)
    new = made(tmp_path / "new", a="new", d__b="1")
    place = tmp_path / "submitted" / "ada" / "lab"
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x").touch()
    for before in ("nothing", "folder", "file", "link", "dangling"):
        if before == "folder":
            made(place, old="old")
        elif before == "file":
            place.write_text("")
        elif before in ("link", "dangling"):
            place.symlink_to(tmp_path / {"link": "secret"}.get(before, "nowhere"))
        put(new, place)
        assert is_folder(place)
        assert content_sha256(place) == content_sha256(new)
        assert received(place) == 1e9
        assert [path.name for path in place.parent.iterdir()] == ["lab"]
        if before != "dangling":
            put(new, place)
            module._remove(place)
    assert (tmp_path / "secret" / "x").exists()


def test_an_error_that_is_none_of_exchanging_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: object) -> int:
        raise OSError(errno.EIO, "renameat2")

    monkeypatch.setattr(module, "call", refusing)
    old, new = made(tmp_path / "old", a="old"), made(tmp_path / "new", a="new")
    with pytest.raises(OSError, match="renameat2"):
        put(new, old)
    assert (old / "a").read_text() == "old"


def test_only_what_nobody_works_on_is_cleared_away(tmp_path: Path) -> None:
    left = made(tmp_path / ".lab+left", a="")
    made(tmp_path / "lab", a="")
    (tmp_path / ".hidden").touch()
    (tmp_path / ".x+link").symlink_to(tmp_path / "lab")
    with module._copy(tmp_path / "lab", tmp_path / "lab") as part:
        clear(tmp_path, tmp_path / "nowhere")
        assert part.is_dir()
        assert not left.exists()
    clear(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"lab", ".hidden", ".x+link"}
