"""A tar as a source, read from front to back. No header is believed, and what it may cost is
bounded: a member's extended headers, what the whole unpacks to, the memory of an xz stream.
"""

import lzma
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from gzip import GzipFile
from pathlib import Path
from typing import IO, Any, Protocol, Self, cast

from grader.intake.limits import (
    CHUNK_BYTES,
    MAX_ENTRIES,
    TAR_HEADER_BYTES,
    XZ_MEMORY_BYTES,
    Limits,
)
from grader.intake.sources import (
    BROKEN,
    FILE,
    FOLDER,
    LINK,
    OTHER,
    SPARSE,
    Member,
    SourceError,
    Wanted,
)

GZIP, XZ = b"\x1f\x8b", b"\xfd7zXZ\x00"


class _Reads(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Metered:
    """What a tar's archive unpacks to, read in small pieces.

    A file that unpacks to much is no reason to stop, for others' work comes after it.
    """

    def __init__(self, unpacked: _Reads, total_bytes: int) -> None:
        self._unpacked, self._total_bytes, self._count = unpacked, total_bytes, 0
        self._ended = False
        self.allowed = TAR_HEADER_BYTES + CHUNK_BYTES

    def read(self, size: int) -> bytes:
        data = self._unpacked.read(size)
        if self._ended and not data:  # tarfile would look for the end for ever
            raise SourceError("it ends too early")
        self._ended = not data
        self._count += len(data)
        self.allowed -= len(data)
        if self.allowed < 0:
            raise SourceError(f"a member has headers of more than {TAR_HEADER_BYTES} bytes")
        if self._count > self._total_bytes:
            raise SourceError(
                f"it unpacks to more than {self._total_bytes} bytes (see --max-total-mb)"
            )
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


class _Header(tarfile.TarInfo):
    """A header; tarfile takes one that is damaged for the archive's end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # the types know it not
                raise
            raise tarfile.ReadError(f"a header is damaged or missing: {error}") from None


class Tar:
    """A tar archive, plain or packed by gzip or xz, read from front to back."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path, self._limits = path, limits

    def names(self) -> list[str]:
        names: list[str] = []
        with suppress(SourceError):  # reading it meets the error again, and reports it
            names.extend(member.path for member in self.members(lambda _: True))
        return names

    def members(self, wanted: Wanted) -> Iterator[Member]:
        with self._path.open("rb") as packed:
            metered = _Metered(_unpacked(packed), self._limits.total_bytes)
            try:
                archive = tarfile.open(  # noqa: SIM115
                    fileobj=cast(Any, metered), mode="r|", tarinfo=_Header
                )
            except BROKEN as error:
                raise SourceError(str(error)) from None
            for _ in range(MAX_ENTRIES):
                info = _next(archive)
                if info is None:
                    return
                metered.allowed = TAR_HEADER_BYTES + CHUNK_BYTES + info.size
                yield _tar_member(archive, info)
            raise SourceError(f"it has more than {MAX_ENTRIES} entries")


def _unpacked(packed: IO[bytes]) -> _Reads:
    start = packed.read(len(XZ))
    packed.seek(0)
    if start.startswith(GZIP):
        return cast(_Reads, GzipFile(fileobj=packed))
    return _Xz(packed) if start == XZ else packed


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
    def content() -> AbstractContextManager[IO[bytes]]:
        file = archive.extractfile(info)
        assert file is not None
        return nullcontext(file)

    return Member(
        path=info.name,
        kind=_tar_kind(info),
        size=info.size,
        modified=float(info.mtime),
        open=content,
    )


def _tar_kind(info: tarfile.TarInfo) -> str:
    if info.issym() or info.islnk():
        return LINK
    if info.isdir():
        return FOLDER
    if info.issparse():
        return SPARSE
    return FILE if info.isreg() else OTHER
