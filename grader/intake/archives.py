"""Zip and tar as sources: nothing is unpacked to a disk here, and no header is believed.

What a header may cost is bounded too: the zip's directory, a tar member's extended headers, the
memory that an xz stream asks for.
"""

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from functools import partial
from gzip import GzipFile
from pathlib import Path
from struct import error as struct_error
from struct import unpack_from
from typing import IO, Any, Protocol, cast

from grader.intake.limits import (
    MAX_ENTRIES,
    RATIO_FREE_BYTES,
    TAR_HEADER_BYTES,
    XZ_MEMORY_BYTES,
    ZIP_DIRECTORY_BYTES,
    Limits,
    RefusedError,
)
from grader.intake.sources import (
    FILE,
    FOLDER,
    LINK,
    OTHER,
    Folder,
    Member,
    Source,
    SourceError,
    Wanted,
)

BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct_error,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    RuntimeError,
    LookupError,
)
CHUNK_BYTES = 64 * 2**10
PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED, UTF_8 = 0x1, 0x800
REPARSE_POINT = 0x400
TIME_FIELD = 0x5455
TAR_BLOCK = 512


@contextmanager
def opened(path: Path, limits: Limits) -> Iterator[Source]:
    """Open a folder, a zip or a tar, which it is by its content.

    Raises:
        ValueError: It is nothing of these.
    """
    if path.is_dir():
        inbound = path / "inbound"
        yield Folder(inbound if inbound.is_dir() else path)
        return
    if not path.is_file():
        raise ValueError(f"there is no folder and no archive {path}")
    with path.open("rb") as file:
        start = file.read(TAR_BLOCK)
        file.seek(0)
        if start.startswith(b"PK"):
            yield Zip(path, file)
        elif start.startswith((b"\x1f\x8b", b"\xfd7zXZ\x00")) or start[257:262] == b"ustar":
            yield Tar(path, limits)
        else:
            raise ValueError(f"{path} is no folder, zip, tar, tar.gz or tar.xz")


class _Reads(Protocol):
    def read(self, size: int, /) -> bytes: ...


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
            raise ValueError(f"{path} cannot be read as a zip: {error}") from None

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
            raise RefusedError("it is encrypted")
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


class _Metered:
    """What a tar's archive unpacks to, read in small pieces and stopped at bombs."""

    def __init__(self, unpacked: _Reads, packed: IO[bytes], limits: Limits) -> None:
        self._unpacked, self._packed, self._limits = unpacked, packed, limits
        self._count = 0
        self.allowed = TAR_HEADER_BYTES + CHUNK_BYTES

    def read(self, size: int) -> bytes:
        data = self._unpacked.read(size)
        self._count += len(data)
        self.allowed -= len(data)
        if self.allowed < 0:
            raise SourceError(f"a member has headers of more than {TAR_HEADER_BYTES} bytes")
        if self._count > self._limits.total_bytes:
            raise SourceError(f"it unpacks to more than {self._limits.total_bytes} bytes")
        if self._count > self._limits.ratio * (self._packed.tell() + RATIO_FREE_BYTES):
            raise SourceError(f"it unpacks to more than {self._limits.ratio} times its size")
        return data


class _Xz:
    """One xz stream, unpacked in bounded memory."""

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed = packed
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)

    def read(self, size: int) -> bytes:
        while not self._decoder.eof:
            more = self._packed.read(CHUNK_BYTES) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not more:
                raise EOFError("it ends too early")
            if data := self._decoder.decompress(more, size):
                return data
        return b""


class Tar:
    """A tar archive, plain or packed by gzip or xz, read from front to back."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path, self._limits = path, limits

    def names(self) -> list[str]:
        names = []
        try:
            for member in self.members(lambda _: True):
                names.append(member.path)
        except SourceError:
            pass
        return names

    def members(self, wanted: Wanted) -> Iterator[Member]:
        with self._path.open("rb") as packed:
            metered = _Metered(_unpacked(packed), packed, self._limits)
            try:
                archive = tarfile.open(fileobj=cast(Any, metered), mode="r|")  # noqa: SIM115
            except BROKEN as error:
                raise SourceError(str(error)) from None
            for _ in range(MAX_ENTRIES):
                info = _next(archive)
                if info is None:
                    return
                metered.allowed = TAR_HEADER_BYTES + CHUNK_BYTES + max(info.size, 0)
                yield _tar_member(archive, info)
            raise SourceError(f"it has more than {MAX_ENTRIES} entries")


def _unpacked(packed: IO[bytes]) -> _Reads:
    start = packed.read(2)
    packed.seek(0)
    if start == b"\x1f\x8b":
        return cast(_Reads, GzipFile(fileobj=packed))
    return _Xz(packed) if start == b"\xfd7" else packed


def _next(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    """The next member; what tarfile keeps of earlier ones is let go."""
    try:
        info = archive.next()
        if info is not None and info.size < 0:
            raise SourceError(f"the size of {info.name!r} is negative")
    except SourceError:
        raise
    except BROKEN as error:
        raise SourceError(str(error)) from None
    cast(Any, archive).members = []
    archive.pax_headers = {}
    return info


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    kind = LINK if info.issym() or info.islnk() else FOLDER if info.isdir() else OTHER
    if info.isreg() and not info.issparse():
        kind = FILE

    def content() -> AbstractContextManager[IO[bytes]]:
        file = archive.extractfile(info)
        assert file is not None
        return nullcontext(file)

    modified = float(info.mtime)
    return Member(path=info.name, kind=kind, size=info.size, modified=modified, open=content)
