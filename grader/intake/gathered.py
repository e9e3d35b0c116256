"""What a source has of one submission, while it is being read."""

import pwd
from dataclasses import dataclass, field
from pathlib import Path

from grader.intake.layouts import Origin
from grader.intake.limits import RefusedError
from grader.intake.names import Parts, clash_keys, shown
from grader.intake.sources import Member


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
    """One submission's files, and what of it is refused.

    Attributes:
        why: Why it is refused as a whole, if it is.
        changed: When the kernel last saw any of it change; 0 if the source does not say.
        owners: User ids its files belong to.
        entries: Files and folders seen, taken or not.
    """

    origin: Origin
    files: list[Taken] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    why: str = ""
    changed: float = 0.0
    owners: set[int] = field(default_factory=set)
    entries: int = 0
    _names: dict[tuple[bool, str], tuple[str, bool]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def see(self, member: Member) -> None:
        self.changed = max(self.changed, member.changed or 0.0)
        if member.owner is not None:
            self.owners.add(member.owner)

    def check_owner(self, users: set[str]) -> None:
        """Refuse what belongs to the account of another user."""
        for owner in map(_account, self.owners):
            if owner != self.origin.name and owner in users:
                raise RefusedError(f"it belongs to the account {owner!r}", whole=True)

    def refuse(self, path: str, refused: RefusedError) -> None:
        """Note that a file is refused, and with it the whole submission if need be."""
        self.refused.append((path, str(refused)))
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
        clashing = [self._names[key] for key in folders if key in self._names]
        others = [name for name, is_file in clashing if is_file]
        if own in self._names:
            others.append(self._names[own][0])
        if others:
            raise RefusedError(
                f"it and {shown(others[0])!r} would be one file on some system: rename one",
                whole=True,
            )
        name = "/".join(path)
        self._names |= {own: (name, True)} | dict.fromkeys(folders, (name, False))


def _account(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return ""
