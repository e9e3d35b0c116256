"""A zip as a source. Nothing is unpacked to a disk here, no header is believed, and what reading
the directory costs is bounded.
"""

import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from struct import unpack_from
from typing import IO, cast

from grader.intake.limits import ZIP_DIRECTORY_BYTES, RefusedError
from grader.intake.sources import BROKEN, FILE, FOLDER, LINK, OTHER, Member, SourceError, Wanted

PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED, UTF_8 = 0x1, 0x800
REPARSE_POINT = 0x400
TIME_FIELD = 0x5455


class _Capped:
    """A file that refuses a single read larger than any zip's directory may be."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell
        self.seekable, self.close = file.seekable, file.close

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(
            size if 0 <= size <= ZIP_DIRECTORY_BYTES else ZIP_DIRECTORY_BYTES + 1
        )
        if len(data) > ZIP_DIRECTORY_BYTES:
            raise SourceError(f"its directory is larger than {ZIP_DIRECTORY_BYTES} bytes")
        return data


class Zip:
    """A zip archive."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        try:
            self._archive = zipfile.ZipFile(cast(IO[bytes], _Capped(file)))
        except BROKEN as error:
            raise ValueError(
                f"{path} cannot be read as a zip: {error}; if another program can unpack it, "
                "collect the folder"
            ) from None

    def names(self) -> list[str]:
        return [_zip_name(info).rstrip("/") for info in self._archive.infolist()]

    def members(self, wanted: Wanted) -> Iterator[Member]:
        for info in self._archive.infolist():
            path = _zip_name(info)
            yield Member(
                path=path.rstrip("/"),
                kind=_zip_kind(info),
                size=info.file_size,
                packed=max(info.compress_size, 1),
                modified=_zip_time(info),
                open=partial(self._open, info),
            )

    @contextmanager
    def _open(self, info: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
        if info.flag_bits & ENCRYPTED:
            raise RefusedError("it is encrypted: it must be handed in without a password")
        if info.compress_type not in PLAIN:
            raise RefusedError("it is packed in an unusual way: only stored and deflated are read")
        with self._archive.open(info) as file:
            yield file


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The whole name, even what follows a NUL; as UTF-8 if it can be, whatever its flag says."""
    name = info.orig_filename
    if info.flag_bits & UTF_8:
        return name
    try:
        return name.encode("cp437").decode()
    except UnicodeError:
        return name


def _zip_kind(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK or info.external_attr & REPARSE_POINT:
        return LINK
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return OTHER
    return FOLDER if kind == stat.S_IFDIR or info.orig_filename.endswith("/") else FILE


def _zip_time(info: zipfile.ZipInfo) -> float:
    """The time a member carries: of its extra field, or else in this machine's time zone."""
    extra, at = info.extra, 0
    while at + 9 <= len(extra):
        field, size = unpack_from("<HH", extra, at)
        if field == TIME_FIELD and size >= 5 and extra[at + 4] & 1:
            return float(unpack_from("<i", extra, at + 5)[0])
        at += 4 + size
    try:
        return datetime(*info.date_time).timestamp()
    except (ValueError, OverflowError):
        return 0.0
