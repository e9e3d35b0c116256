"""Read a source once: every entry is attributed, checked, counted and stored under a number."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from grader.intake.gathered import Gathered, Taken
from grader.intake.layouts import ELSEWHERE, Layout
from grader.intake.limits import (
    CHUNK_BYTES,
    MAX_NAME_BYTES,
    MAX_STRAYS,
    RATIO_FREE_BYTES,
    Limits,
    RefusedError,
)
from grader.intake.names import Parts, checked, is_left_out, leaves_source
from grader.intake.sources import BROKEN, FILE, FOLDER, Member, Source, SourceError

ARCHIVES = frozenset((".zip", ".tar", ".gz", ".tgz", ".xz", ".bz2", ".7z", ".rar"))


class Reading:
    """One pass over a source.

    Attributes:
        submissions: By their key in the source.
        strays: Entries that are nobody's, and why they are not taken; the first thousand.
        damage: Why the source could not be read to its end; empty if it could.
    """

    def __init__(self, lab: str, layout: Layout, limits: Limits, folder: Path) -> None:
        self.submissions: dict[str, Gathered] = {}
        self.strays: dict[str, str] = {}
        self.damage = ""
        self._lab, self._layout, self._limits, self._folder = lab, layout, limits, folder
        self._stored = self._total = 0
        self._last: Gathered | None = None

    def run(self, source: Source) -> None:
        """Read to the end or as far as can be; in what it breaks off is refused."""
        try:
            for member in source.members(self._wanted):
                self._take(member)
        except SourceError as error:
            self.damage = str(error)
            if self._last is not None:
                self._last.refuse_all(f"the source cannot be read beyond it: {error}")

    def _wanted(self, path: str) -> bool:
        """Whether to look below a folder; not where a submission is refused already."""
        parts = _split(path)
        if is_left_out(parts):
            return False
        found = self._layout.find(path)
        if found is None:
            return len(parts) <= self._layout.wrapped + 1
        origin, inner = found
        if origin is ELSEWHERE:
            return bool(inner)
        gathered = self.submissions.get(origin.key)
        return gathered is None or not gathered.why

    def _take(self, member: Member) -> None:
        parts = _split(member.path)
        if leaves_source(parts, self._layout.wrapped + 1):
            self._stray(member.path, "its path is absolute or leaves the source")
            return
        if is_left_out(parts):
            return
        found = self._layout.find(member.path)
        if found is None:
            if member.kind != FOLDER:
                top = "/".join(parts[: self._layout.wrapped + 1])
                self._stray(top, f"it is nobody's submission in the layout {self._layout.name!r}")
            return
        origin, inner = found
        if origin is not ELSEWHERE:
            gathered = self.submissions.setdefault(origin.key, Gathered(origin=origin))
            gathered.see(member)
            if inner and not gathered.why and not is_left_out(inner):
                self._add(gathered, member, inner)

    def _stray(self, path: str, why: str) -> None:
        self._last = None
        if len(self.strays) < MAX_STRAYS:
            self.strays[path[:MAX_NAME_BYTES]] = why

    def _add(self, gathered: Gathered, member: Member, inner: Parts) -> None:
        self._last = gathered
        before = gathered.size
        gathered.entries += 1
        try:
            path, inside = self._inside(checked(inner, self._limits))
            if gathered.entries > self._limits.submission_files:
                raise RefusedError(
                    f"it has more than {self._limits.submission_files} files and folders "
                    "(see --max-files)",
                    whole=True,
                )
            if member.kind == FOLDER:
                return
            self._check(member, path)
            gathered.claim(path, inside)
            size, sha256, stored = self._store(gathered, member)
        except RefusedError as refused:
            gathered.refuse(member.path, refused)
            self._total -= before if refused.whole else 0
            return
        self._total += size
        gathered.files.append(
            Taken(
                path=path,
                source=member.path,
                size=size,
                sha256=sha256,
                modified=member.modified,
                stored=stored,
                inside=inside,
            )
        )

    def _inside(self, path: Parts) -> tuple[Parts, bool]:
        """A path from the folder that is called after the lab, if there is one."""
        stem, dot, suffix = path[-1].rpartition(".")
        if suffix.lower() == "ipynb":
            path = (*path[:-1], f"{stem}{dot}ipynb")
        if self._lab in path[:-1]:
            return path[path.index(self._lab) + 1 :], True
        return path, False

    def _check(self, member: Member, path: Parts) -> None:
        """Refuse what need not be read for it."""
        suffix = PurePosixPath(path[-1]).suffix.lower()
        if member.kind != FILE:
            raise RefusedError(f"it is a {member.kind}")
        if suffix in ARCHIVES:
            raise RefusedError("archives are not opened: hand in the files themselves")
        if suffix not in self._limits.suffixes:
            raise RefusedError(_not_of_a_type(suffix))
        if member.size > self._limits.file_bytes:
            raise self._too_large()

    def _store(self, gathered: Gathered, member: Member) -> tuple[int, str, Path]:
        self._stored += 1
        stored = self._folder / f"{self._stored:07}"
        try:
            with _content(member) as content, stored.open("xb") as out:
                size, sha256 = self._copy(content, out, gathered, member)
        except BaseException:
            stored.unlink(missing_ok=True)
            raise
        return size, sha256, stored

    def _copy(
        self, content: IO[bytes], out: IO[bytes], gathered: Gathered, member: Member
    ) -> tuple[int, str]:
        """Copy in pieces; nothing but what was read counts."""
        limits, room = self._limits, self._limits.submission_bytes - gathered.size
        size, digest = 0, hashlib.sha256()
        while piece := _piece(content):
            size += len(piece)
            if size > limits.file_bytes:
                raise self._too_large()
            if size > room:
                raise RefusedError(
                    f"it has more than {limits.submission_bytes} bytes (see --max-submission-mb)",
                    whole=True,
                )
            if member.packed and size > max(RATIO_FREE_BYTES, limits.ratio * member.packed):
                raise RefusedError(f"it unpacks to over {limits.ratio} times its size", whole=True)
            if self._total + size > limits.total_bytes:
                raise SourceError(
                    f"all submissions have more than {limits.total_bytes} bytes "
                    "(see --max-total-mb)"
                )
            digest.update(piece)
            out.write(piece)
        return size, digest.hexdigest()

    def _too_large(self) -> RefusedError:
        return RefusedError(
            f"it is larger than {self._limits.file_bytes} bytes: clear outputs, or see "
            "--max-file-mb"
        )


def _not_of_a_type(suffix: str) -> str:
    if not suffix:
        return "files without a suffix are not taken"
    return f"files of type {suffix} are not taken (see --allow)"


def _split(path: str) -> Parts:
    return tuple(part for part in path.split("/") if part != ".")


@contextmanager
def _content(member: Member) -> Iterator[IO[bytes]]:
    """A member's content; that it is damaged shows on opening, or else in `_piece`."""
    with ExitStack() as stack:
        try:
            content = stack.enter_context(member.open())
        except SourceError:
            raise
        except BROKEN as error:
            raise RefusedError(f"it is damaged: {error}") from None
        yield content


def _piece(content: IO[bytes]) -> bytes:
    try:
        return content.read(CHUNK_BYTES)
    except SourceError:
        raise
    except BROKEN as error:
        raise RefusedError(f"it is damaged: {error}") from None
