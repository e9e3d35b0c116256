"""Put a submission together and in its place, whole or not at all.

Every attempt is kept in `attempts/<lab>/<student>/<n>/`, numbered as they were collected; the
latest by its time of receipt is also in `submitted/<student>/<lab>/`. A folder's time of
modification is the receipt. Killed at any point, collecting the same source again ends the same.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from grader.course import Course
from grader.gradebook.attempts import (
    TIMESTAMP,
    attempts,
    attempts_folder,
    clear,
    content_sha256,
    is_folder,
    keep,
    next_attempt,
    put,
    received,
)
from grader.intake.gathered import Gathered, Taken
from grader.intake.limits import RefusedError
from grader.intake.receipts import Receipt
from grader.notebooks import InvalidNotebookError, Notebook
from grader.transplant import find_submission


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

    @property
    def carried(self) -> float:
        """When the last of its files was written, as the source says."""
        return max((file.modified for file in self.files), default=0.0)


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
        raise RefusedError(f"{error}{_why_not(gathered)}", whole=True) from None
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


def _why_not(gathered: Gathered) -> str:
    """Why what may have been the notebook was refused."""
    books = [why for path, why in gathered.refused if path.lower().endswith(".ipynb")]
    reasons = books or [why for _, why in gathered.refused]
    return f"; of what was handed in, {reasons[0]}" if reasons else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Attempt:
    sha256: str
    received: int

    @classmethod
    def of(cls, folder: Path) -> "_Attempt":
        return cls(sha256=content_sha256(folder), received=received(folder))


class Place:
    """A student's place for one lab: the attempts and what counts now."""

    def __init__(self, course: Course, lab: str, student: str) -> None:
        self._current = course.submitted(lab, student).parent
        self._kept_in = attempts_folder(course, lab, student)
        self._folders = attempts(course, lab, student)
        self._known = [_Attempt.of(folder) for folder in self._folders]
        self._by_hand = is_folder(self._current)
        if self._by_hand:
            current = _Attempt.of(self._current)
            self._by_hand = current.sha256 not in {kept.sha256 for kept in self._known}
            self._known += [current] if self._by_hand else []

    def state(self, assembled: Assembled, receipt: Receipt) -> tuple[State, int]:
        """What putting in a submission would do, and when what it holds was received."""
        if not self._known:
            return State.COLLECTED, receipt.time
        # of those received at one time, the one collected last
        last = max(reversed(self._known), key=lambda attempt: attempt.received)
        if last.sha256 == assembled.sha256:
            return State.UNCHANGED, last.received
        same = [each.received for each in self._known if each.sha256 == assembled.sha256]
        if same and (receipt.time <= max(same) or not receipt.known):
            return State.UNCHANGED, max(same)
        return State.OLDER if receipt.time < last.received else State.REPLACED, receipt.time

    def put(self, assembled: Assembled, receipt: Receipt) -> tuple[State, int]:
        """Put a submission in; what lies in `submitted/` and was not collected is kept first.

        Raises:
            OSError: It cannot be written.
        """
        state, time = self.state(assembled, receipt)
        clear(self._current.parent, self._kept_in)
        if self._by_hand:
            self._folders.append(keep(self._current, self._kept_in))
        if state is State.UNCHANGED:
            if not is_folder(self._current):
                put(max(reversed(self._folders), key=received), self._current)
            return state, time
        stamp(assembled.folder, time)
        if state is not State.OLDER:
            put(assembled.folder, self._current)
        self._kept_in.mkdir(parents=True, exist_ok=True)
        assembled.folder.rename(next_attempt(self._kept_in))
        return state, time


def stamp(folder: Path, time: int) -> None:
    """Write the receipt where nbgrader reads it, and as the folder's time."""
    text = f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M:%S} UTC\n"
    (folder / TIMESTAMP).write_text(text, encoding="utf-8")
    os.utime(folder, (time, time))
