"""Where submissions come from, as a stream of members: a folder, or an archive (see `archives`)."""

import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from grader.intake.limits import MAX_ENTRIES, RefusedError

FILE, FOLDER, LINK = "file", "folder", "link"
OTHER, SPARSE = "device, pipe or socket", "file with holes"
UNREADABLE = "folder that cannot be read"
WALK_DEPTH = 20
RECOGNISED_DEPTH = 3
BROKEN = (  # what the standard library raises over damaged archives, other than MemoryError
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    RuntimeError,
    LookupError,
)


class SourceError(ValueError):
    """A source can be read no further."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One entry of a source; its content must be read before the next entry is asked for.

    Attributes:
        path: As the source has it, `/` between the parts.
        kind: FILE, FOLDER, LINK, OTHER, SPARSE or UNREADABLE.
        size: What the source says, not to be relied on.
        packed: Bytes it takes in the archive, as that says; 0 where it is not known.
        modified: The time it carries.
        changed: When the kernel last saw it change, which nobody can set; only in folders.
        owner: The user id it belongs to; only in folders.
        open: Opens the content; RefusedError if it is not to be read.
    """

    path: str
    kind: str
    size: int = 0
    packed: int = 0
    modified: float = 0.0
    changed: float | None = None
    owner: int | None = None
    open: Callable[[], AbstractContextManager[IO[bytes]]]


Wanted = Callable[[str], bool]


class Source(Protocol):
    """A folder or an archive that is open."""

    def names(self) -> list[str]:
        """Paths enough to recognise how the source is laid out."""

    def members(self, wanted: Wanted) -> Iterator[Member]:
        """All entries, but for those below folders that are not wanted.

        Raises:
            SourceError: It can be read no further.
        """


class Folder:
    """A folder that others may be changing: every step is taken by descriptor, no link followed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        near = (m.path for m in self.members(lambda p: p.count("/") < RECOGNISED_DEPTH - 1))
        return [path for path, _ in zip(near, range(MAX_ENTRIES), strict=False)]

    def members(self, wanted: Wanted) -> Iterator[Member]:
        folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield from _below(folder, "", wanted)
        finally:
            os.close(folder)


def _below(folder: int, prefix: str, wanted: Wanted) -> Iterator[Member]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if prefix and not wanted(prefix):
                return
            path = f"{prefix}/{entry.name}" if prefix else entry.name
            try:
                member = _member(folder, entry, path)
            except OSError:
                continue
            yield member
            if member.kind == FOLDER and wanted(path) and path.count("/") < WALK_DEPTH:
                yield from _inside(folder, entry.name, path, wanted)


def _inside(folder: int, name: str, path: str, wanted: Wanted) -> Iterator[Member]:
    try:
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    except OSError:
        yield Member(path=path, kind=UNREADABLE, open=_unreadable)
        return
    try:
        yield from _below(inner, path, wanted)
    finally:
        os.close(inner)


def _unreadable() -> AbstractContextManager[IO[bytes]]:
    raise RefusedError("it cannot be read")


def _member(folder: int, entry: os.DirEntry[str], path: str) -> Member:
    status = entry.stat(follow_symlinks=False)
    return Member(
        path=path,
        kind=_kind(status),
        size=status.st_size,
        modified=status.st_mtime,
        changed=status.st_ctime,
        owner=status.st_uid,
        open=lambda: _opened(folder, entry.name),
    )


def _kind(status: os.stat_result) -> str:
    if stat.S_ISDIR(status.st_mode):
        return FOLDER
    if stat.S_ISLNK(status.st_mode) or status.st_nlink > 1:
        return LINK
    return FILE if stat.S_ISREG(status.st_mode) else OTHER


@contextmanager
def _opened(folder: int, name: str) -> Iterator[IO[bytes]]:
    """Open a file below a folder; what was opened is checked, for it may have been swapped."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(name, flags, dir_fd=folder)
    except OSError as error:
        raise RefusedError(f"it cannot be read: {error.strerror}") from None
    if _kind(os.fstat(descriptor)) != FILE:
        os.close(descriptor)
        raise RefusedError("it is no regular file")
    with os.fdopen(descriptor, "rb") as file:
        yield file
