"""Opens nbgrader's gradebook: made in one step, waited for while locked, with a lab's cells in it.

A grader may be killed at any point of this; the next one finds all or nothing, or does it again.
"""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from grader.box.leftovers import temporary_folder
from grader.course import Course, add_tools_to_path
from grader.notebooks import grade_id, read_notebook
from grader.release.generate import generate
from grader.results import NoRoomError

BUSY_TIMEOUT_S = 30


class GradebookLockedError(TimeoutError):
    """Another program kept the gradebook locked for longer than we wait."""


class GradebookUnusableError(OSError):
    """The gradebook's file cannot be read or written."""


@contextmanager
def opened(course: Course) -> Iterator[Any]:
    """Open the course's gradebook, making it if it is not there.

    Raises:
        GradebookLockedError: Another program keeps it locked for `BUSY_TIMEOUT_S`.
        NoRoomError: Its disk is full.
        GradebookUnusableError: Its file cannot be read or written.
    """
    from nbgrader.api import Gradebook

    add_tools_to_path()
    with named_errors(course.gradebook):
        if course.gradebook.exists():
            _part(course.gradebook).unlink(missing_ok=True)  # of a grader that was killed
        else:
            _make(course.gradebook)
        with Gradebook(_url(course.gradebook)) as gradebook:
            yield gradebook


def _url(path: Path) -> str:
    return f"sqlite:///{path}?timeout={BUSY_TIMEOUT_S}"


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn what sqlite says about a gradebook's file into a sentence with the way out."""
    from nbgrader.api import app_log
    from sqlalchemy.exc import DatabaseError

    rollbacks = _Rollbacks()
    app_log.addFilter(rollbacks)
    try:
        yield
    except (DatabaseError, ValueError) as error:
        cause = error if isinstance(error, DatabaseError) else rollbacks.last
        if named := _named(path, getattr(cause, "orig", None)):
            raise named from None
        raise
    finally:
        app_log.removeFilter(rollbacks)


class _Rollbacks(logging.Filter):
    """Keeps database errors out of the log: nbgrader writes a trace, then raises another error."""

    last: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.getMessage().startswith("Rolling back session"):
            return True
        self.last = record.exc_info[1] if record.exc_info else None
        return False


def _named(path: Path, error: BaseException | None) -> OSError | None:
    """What an error of sqlite means for a gradebook; None if it is about something else."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return GradebookLockedError(
            f"the gradebook has been locked by another program for {BUSY_TIMEOUT_S} s; what was "
            "being recorded is not in it: close formgrader or whatever else has it open, then "
            "run the command again"
        )
    if name == "SQLITE_FULL":
        return NoRoomError(path)
    if name.startswith(("SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN")):
        return GradebookUnusableError(
            f"the gradebook {path} cannot be used ({error}): make it and its folder readable and "
            "writable, then run the command again"
        )
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return GradebookUnusableError(
            f"the gradebook {path} is damaged ({error}): put back a copy of it from before, then "
            "run the command again"
        )
    return None


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _make(path: Path) -> None:
    """Make an empty gradebook elsewhere and give it its name when it is whole.

    nbgrader takes one that has some of its tables for an older one that is complete.
    """
    from nbgrader.api import Gradebook

    with temporary_folder() as folder, _temporary_files_in(folder):
        whole, part = folder / path.name, _part(path)
        Gradebook(_url(whole)).close()
        try:
            part.write_bytes(whole.read_bytes())
            with suppress(FileExistsError, FileNotFoundError):  # another grader was faster
                os.link(part, path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """nbgrader's temporary files lie in a folder that is removed whatever happens."""
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def ensure_assignment(course: Course, lab: str) -> None:
    """Record a released lab's cells in the gradebook if they are not there.

    `labs/` is not touched.
    """
    with opened(course) as gradebook:
        missing = not _is_recorded(gradebook, course, lab)
        if missing:
            wait_for_lock(gradebook)
    if missing:
        with named_errors(course.gradebook), temporary_folder() as folder:
            generate(course, lab, folder)


def wait_for_lock(gradebook: Any) -> None:
    """Begin a transaction that nobody else can write in; sqlite waits for the lock here."""
    from sqlalchemy import text

    gradebook.db.rollback()
    if gradebook.engine.dialect.name == "sqlite":
        gradebook.db.execute(text("BEGIN IMMEDIATE"))


def _is_recorded(gradebook: Any, course: Course, lab: str) -> bool:
    """Whether all of a lab is in the gradebook: nbgrader records it cell by cell.

    Once somebody's work is recorded, the cells stay those it was recorded with.
    """
    from nbgrader.api import MissingEntry

    try:
        notebook = gradebook.find_notebook(lab, lab)
    except MissingEntry:
        return False
    wanted = {grade_id(cell) for cell in read_notebook(course.release(lab))["cells"]} - {""}
    return bool(notebook.submissions) or {cell.name for cell in notebook.source_cells} >= wanted
