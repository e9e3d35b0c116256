"""Put a submission together and in its place, whole or not at all.

Every attempt is kept in `attempts/<lab>/<student>/<n>/`, numbered as they were collected; the
latest by its time of receipt is also in `submitted/<student>/<lab>/`. A folder's time of
modification is the receipt. Killed at any point, collecting the same source again ends the same.
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from grader.course import Course
from grader.gradebook.counting import attempts, content_sha256
from grader.intake.limits import RefusedError
from grader.intake.names import STAMPS
from grader.intake.reading import Gathered, Taken
from grader.notebooks import InvalidNotebookError, Notebook
from grader.transplant import find_submission

TIMESTAMP = STAMPS[0]


class State(StrEnum):
    """What became of a submission."""

    COLLECTED = "collected"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"
    OLDER = "older"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True, slots=True)
class Assembled:
    """A submission as it will lie in `submitted/`, in a folder of its own.

    Attributes:
        sha256: Of all its files' paths and contents.
        notebook: What the notebook was called in the source.
    """

    folder: Path
    files: tuple[Taken, ...]
    sha256: str
    notebook: str
    notes: tuple[str, ...]


def assemble(gathered: Gathered, lab: str, release: Notebook, folder: Path) -> Assembled:
    """Move a submission's files below `folder` and give its notebook the lab's name.

    Raises:
        RefusedError: It has no notebook of the lab, by name or by its cells.
    """
    files = [file for file in gathered.files if file.inside] or gathered.files
    folder.mkdir()
    for file in files:
        path = folder.joinpath(*file.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        file.stored.rename(path)
    try:
        found, notes = find_submission(folder, lab, release)
    except InvalidNotebookError as error:
        raise RefusedError(f"{error}{_refused_notebook(gathered)}", whole=True) from None
    if found.is_dir():
        raise RefusedError(f"{found.name} is a folder", whole=True)
    name = found.relative_to(folder).as_posix()
    books = {"/".join(file.path) for file in files if file.path[-1].endswith(".ipynb")}
    if others := sorted(books - {name}):
        notes = [*notes, f"Notebooks that are not graded: {', '.join(others)}."]
    found.rename(folder / f"{lab}.ipynb")
    return Assembled(
        folder=folder,
        files=tuple(files),
        sha256=content_sha256(folder),
        notebook=name,
        notes=tuple(notes),
    )


def _refused_notebook(gathered: Gathered) -> str:
    refused = [why for path, why in gathered.refused if path.lower().endswith(".ipynb")]
    return f"; of the one handed in, {refused[0]}" if refused else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Attempt:
    folder: Path
    sha256: str
    received: int


class Place:
    """A student's place for one lab: the attempts and what counts now."""

    def __init__(self, course: Course, lab: str, student: str) -> None:
        self._attempts_folder = course.root / "attempts" / lab / student
        self._current = course.submitted(lab, student).parent
        self._kept = [_attempt(path) for path in attempts(course, lab, student)]

    def state(self, assembled: Assembled, received: int) -> State:
        """What putting in a submission would do."""
        sha256 = assembled.sha256
        known = [*self._kept, *self._by_hand()]
        if not known:
            return State.COLLECTED
        last = _last(known)
        same = [attempt.received for attempt in known if attempt.sha256 == sha256]
        if last.sha256 == sha256 or any(received <= time for time in same):
            return State.UNCHANGED
        return State.OLDER if received < last.received else State.REPLACED

    def put(self, assembled: Assembled, received: int) -> State:
        """Put a submission in; what lies in `submitted/` and was not collected is kept first."""
        state = self.state(assembled, received)
        for attempt in self._by_hand():
            self._keep(attempt.folder, copy=True)
        if state is State.UNCHANGED:
            if not self._current.exists():
                self._show(_last(self._kept).folder)
            return state
        stamp(assembled.folder, received)
        if state is not State.OLDER:
            self._show(assembled.folder)
        self._keep(assembled.folder)
        return state

    def _by_hand(self) -> list[_Attempt]:
        """What lies in `submitted/` if it is no attempt that was kept."""
        if not self._current.is_dir():
            return []
        current = _attempt(self._current)
        return [] if current.sha256 in {kept.sha256 for kept in self._kept} else [current]

    def _show(self, folder: Path) -> None:
        """Put a copy in `submitted/`; what was there is an attempt that was kept."""
        self._current.parent.mkdir(parents=True, exist_ok=True)
        part = self._current.with_name(f".{self._current.name}.part")
        old = self._current.with_name(f".{self._current.name}.old")
        for path in (part, old):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(folder, part, symlinks=True)
        if self._current.exists():
            self._current.rename(old)
        part.rename(self._current)
        shutil.rmtree(old, ignore_errors=True)

    def _keep(self, folder: Path, *, copy: bool = False) -> None:
        self._attempts_folder.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(kept.folder.name) for kept in self._kept), default=0)
        target = self._attempts_folder / str(number)
        if copy:
            part = self._attempts_folder / ".part"
            shutil.rmtree(part, ignore_errors=True)
            folder = shutil.copytree(folder, part, symlinks=True)
        folder.rename(target)
        self._kept.append(_attempt(target))


def _attempt(folder: Path) -> _Attempt:
    received = int(folder.stat().st_mtime)
    return _Attempt(folder=folder, sha256=content_sha256(folder), received=received)


def _last(known: list[_Attempt]) -> _Attempt:
    """The one received last; of those received at one time, the one collected last."""
    return max(reversed(known), key=lambda attempt: attempt.received)


def stamp(folder: Path, received: int) -> None:
    """Write the receipt where nbgrader reads it, and as the folder's time."""
    text = f"{datetime.fromtimestamp(received, UTC):%Y-%m-%d %H:%M:%S} UTC\n"
    (folder / TIMESTAMP).write_text(text, encoding="utf-8")
    os.utime(folder, (received, received))


def latest(files: Iterable[Taken]) -> float:
    """When the last of the files that count was written, as the source says."""
    return max((file.modified for file in files), default=0.0)
