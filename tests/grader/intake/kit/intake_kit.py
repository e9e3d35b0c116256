"""What tests of intake share: sources to make, and what to find in a course afterwards."""

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from grader.course import Course
from grader.intake.manifest import Manifest
from grader.intake.placing import State
from grader.notebooks import read_notebook, source

LAB = "lab01_tiny"
MIB = 2**20
HONEST = ("ann", "zoe")
FIRST, SECOND, THIRD = (datetime(2026, 3, day, 12, tzinfo=UTC) for day in (1, 2, 3))
Take = Callable[..., Manifest]
Make = Callable[..., Path]
Answer = Callable[..., bytes]


class Stream(io.BytesIO):
    """What a platform sends while it packs: nothing in it can be written twice."""

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        raise io.UnsupportedOperation("a stream")


def collected(own: Course, student: str) -> str:
    """The answer that lies in `submitted/`."""
    return source(read_notebook(own.submitted(LAB, student))["cells"][0])


def received(own: Course, student: str) -> datetime:
    folder = own.submitted(LAB, student).parent
    time = datetime.fromtimestamp(folder.stat().st_mtime, UTC)
    assert (folder / "timestamp.txt").read_text() == f"{time:%Y-%m-%d %H:%M:%S} UTC\n"
    return time


def states(manifest: Manifest) -> dict[str, str]:
    return {each.student: each.state.value for each in manifest.submissions}


def tree(folder: Path) -> dict[str, tuple[float, bytes]]:
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_mtime,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in folder.rglob("*")
        if "reports" not in path.parts and path.name != "submitted"
    }


def folder_of(root: Path, files: dict[str, bytes], when: datetime = FIRST) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (when.timestamp(), when.timestamp()))
    return root


def exchange(
    root: Path, user: str, content: bytes, stamp: str = "2026-03-01 12:00:00.5 UTC"
) -> Path:
    (root / "course" / "outbound").mkdir(parents=True, exist_ok=True)
    folder = root / "course" / "inbound" / f"{user}+{LAB}+{stamp}+abc"
    folder_of(folder, {f"{LAB}.ipynb": content, "timestamp.txt": b"1999", "x.py": b""})
    return root / "course"


def between(answer: Answer, *hostile: tuple) -> list[tuple]:
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


def whole(root: Path) -> dict[str, tuple]:
    """All that lies below a folder, hidden or not; the receipts of attempts too."""
    found: dict[str, tuple] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        is_attempt = path.name.isdecimal() or path.parents[1].name == "submitted"
        received = int(status.st_mtime) if path.is_dir() and is_attempt else 0
        found[path.relative_to(root).as_posix()] = (stat.S_IFMT(status.st_mode), content, received)
    return found
