"""A student's attempts as folders: found, told apart by their content, copied, put in place.

Only regular files count, alike in hashes and copies: links, pipes and devices do not, nor does
what may not be read or lies too deep for a path.
"""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from tempfile import mkdtemp

from grader.box.linux import call
from grader.course import Course

TIMESTAMP = "timestamp.txt"
MAX_PATH_BYTES = 2560
MAX_DEPTH = 100
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EPERM)


def attempts(course: Course, lab: str, student: str) -> list[Path]:
    """The folders of all attempts in the order in which they were collected."""
    found = attempts_folder(course, lab, student).glob("*")
    return sorted((path for path in found if path.name.isdecimal()), key=lambda p: int(p.name))


def attempts_folder(course: Course, lab: str, student: str) -> Path:
    return course.root / "attempts" / lab / student


def received(folder: Path) -> int:
    """When an attempt was received, in seconds since 1970: its folder's time of modification."""
    return int(folder.stat().st_mtime)


def is_folder(path: Path) -> bool:
    """Whether something lies there that may be an attempt; what a link leads to is none."""
    return path.is_dir() and not path.is_symlink()


def content_sha256(folder: Path) -> str:
    """A hash of an attempt's files and their paths; its time stamp is none of them."""
    digest = hashlib.sha256()
    for name in _regular_files(folder):
        if name != TIMESTAMP:
            with (folder / name).open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(content.encode() + os.fsencode(name) + b"\0")
    return digest.hexdigest()


def _regular_files(folder: Path) -> list[str]:
    """Paths inside a folder, in a fixed order."""
    found, waiting = [], [""]
    while waiting:
        inside = waiting.pop()
        try:
            entries = list(os.scandir(folder / inside))
        except OSError:  # it may not be read
            continue
        for entry in entries:
            path = os.path.join(inside, entry.name)
            if len(os.fsencode(path)) > MAX_PATH_BYTES or path.count("/") > MAX_DEPTH:
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            elif entry.is_file(follow_symlinks=False) and os.access(entry, os.R_OK):
                found.append(path)
    return sorted(found)


def keep(folder: Path, kept: Path) -> Path:
    """Make a copy of a folder the newest attempt below `kept`; it appears there whole."""
    kept.mkdir(parents=True, exist_ok=True)
    with _copy(folder, kept / "attempt") as part:
        return part.rename(next_attempt(kept))


def next_attempt(kept: Path) -> Path:
    numbers = (int(path.name) for path in kept.iterdir() if path.name.isdecimal())
    return kept / str(1 + max(numbers, default=0))


def put(folder: Path, target: Path) -> None:
    """Put a copy of an attempt in a place; what was there before is gone.

    At every moment the old or the new lies there whole, on file systems that can exchange two
    folders.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _copy(folder, target) as part:
        if os.path.lexists(target):
            _exchange(part, target)
            _remove(part)
        else:
            part.rename(target)


def clear(*places: Path) -> None:
    """Remove what killed processes left in folders while they copied; work going on is left."""
    for part in filter(is_folder, chain.from_iterable(place.glob(".*+*") for place in places)):
        with suppress(BlockingIOError, FileNotFoundError), _locked(part, fcntl.LOCK_NB):
            _remove(part)


@contextmanager
def _locked(folder: Path, how: int = 0) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | how)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _copy(folder: Path, target: Path) -> Iterator[Path]:
    """A copy beside where it will be, locked; the folder's time, which is the receipt, is kept."""
    part = Path(mkdtemp(prefix=f".{target.name}+", dir=target.parent))
    part.chmod(0o755)
    with _locked(part):
        for name in _regular_files(folder):
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / name, part / name)
        times = folder.stat()
        os.utime(part, ns=(times.st_atime_ns, times.st_mtime_ns))
        yield part


def _exchange(first: Path, second: Path) -> None:
    paths = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second))
    try:
        call("renameat2", *paths, _RENAME_EXCHANGE)
    except OSError as error:
        if error.errno not in _CANNOT_EXCHANGE:
            raise
        old = first.with_name(f"{first.name}.old")
        second.rename(old)
        first.rename(second)
        old.rename(first)


def _remove(path: Path) -> None:
    """Remove what may hold folders that cannot be emptied: those are left, nothing is raised."""
    if is_folder(path):
        with suppress(RecursionError):
            shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
