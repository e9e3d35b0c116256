"""Read a source once: every entry is attributed, checked, counted and stored under a number."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from grader.intake.archives import BROKEN
from grader.intake.layouts import ELSEWHERE, Layout, Origin
from grader.intake.limits import MAX_LISTED, RATIO_FREE_BYTES, Limits, RefusedError
from grader.intake.names import Parts, checked, clash_keys, is_left_out, leaves_source
from grader.intake.sources import FILE, FOLDER, Member, Source, SourceError

CHUNK_BYTES = 64 * 2**10
ARCHIVES = frozenset((".zip", ".tar", ".gz", ".tgz", ".xz", ".bz2", ".7z", ".rar"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """A file that was taken in.

    Attributes:
        path: Inside the submission.
        source: Its path in the source.
        stored: Where its content lies for now.
        inside: It lay in a folder called after the lab; only those count if there are any.
    """

    path: Parts
    source: str
    size: int
    sha256: str
    modified: float
    stored: Path
    inside: bool


@dataclass(kw_only=True, slots=True)
class Gathered:
    """What a source has of one submission.

    Attributes:
        why: Why it is refused as a whole, if it is.
        changed: When the kernel last saw any of it change; 0 if the source does not say.
        owners: User ids its files belong to.
        entries: Files and folders seen, taken or not.
        unlisted: Refusals beyond those listed.
    """

    origin: Origin
    files: list[Taken] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    unlisted: int = 0
    why: str = ""
    changed: float = 0.0
    owners: set[int] = field(default_factory=set)
    entries: int = 0
    _names: dict[tuple[bool, str], bool] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def see(self, member: Member) -> None:
        self.changed = max(self.changed, member.changed or 0.0)
        if member.owner is not None:
            self.owners.add(member.owner)

    def refuse(self, path: str, refused: RefusedError) -> None:
        """Note that a file is refused, and with it the whole submission if need be."""
        if len(self.refused) < MAX_LISTED:
            self.refused.append((path, str(refused)))
        else:
            self.unlisted += 1
        if refused.whole:
            self.refuse_all(str(refused))

    def refuse_all(self, why: str) -> None:
        """Refuse the whole submission; its files are let go."""
        self.why = self.why or why
        for file in self.files:
            file.stored.unlink(missing_ok=True)
        self.files.clear()

    def claim(self, path: Parts, inside: bool) -> None:
        """Take a path; RefusedError if it and another are one file on some system."""
        own, *folders = ((inside, key) for key in clash_keys(path))
        if own in self._names or any(self._names.get(folder) for folder in folders):
            raise RefusedError("two of its files would be the same on some system", whole=True)
        self._names |= {own: True} | dict.fromkeys(folders, False)


class Reading:
    """One pass over a source.

    Attributes:
        submissions: By their key in the source.
        strays: Entries that are nobody's, and why they are not taken.
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
            if inner and not gathered.why:
                self._add(gathered, member, inner)

    def _stray(self, path: str, why: str) -> None:
        if len(self.strays) < MAX_LISTED:
            self.strays[path] = why

    def _add(self, gathered: Gathered, member: Member, inner: Parts) -> None:
        self._last = gathered
        before = gathered.size
        gathered.entries += 1
        try:
            path, inside = self._inside(checked(inner, self._limits))
            if gathered.entries > self._limits.submission_files:
                why = f"it has more than {self._limits.submission_files} files and folders"
                raise RefusedError(why, whole=True)
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
            raise RefusedError("archives are not opened: the files themselves must be handed in")
        if suffix not in self._limits.suffixes:
            raise RefusedError(f"files of type {suffix or 'without a suffix'} are not taken")
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
                raise RefusedError(f"it has more than {limits.submission_bytes} bytes", whole=True)
            if member.packed and size > max(RATIO_FREE_BYTES, limits.ratio * member.packed):
                raise RefusedError(f"it unpacks to over {limits.ratio} times its size", whole=True)
            if self._total + size > limits.total_bytes:
                raise SourceError(f"all submissions have more than {limits.total_bytes} bytes")
            digest.update(piece)
            out.write(piece)
        return size, digest.hexdigest()

    def _too_large(self) -> RefusedError:
        return RefusedError(f"it is larger than {self._limits.file_bytes} bytes")


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
