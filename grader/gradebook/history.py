"""What regrades replaced: numbered folders in `reports/<lab>/history/<student>/`.

An entry is opened before grading, with the result that is about to be replaced, and closed with
the new one; after that it is never written again. A regrade that was interrupted leaves its entry
open, and the next one closes it: the replaced result is the one from before the first of them.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from grader.course import Course
from grader.gradebook.writer import Standing
from grader.results import Result, read_result, write_result

ABOUT, BEFORE, AFTER = "regrade.json", "before.json", "after.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One regrade of a submission.

    Attributes:
        number: From 1, counted for each student of a lab.
        time: When it was opened, UTC.
        reason: What the instructor gave.
        before: The result that was replaced, with its versions; None if there was none, or none
            that can be read.
        after: The new one; None while the entry is open.
        book_before: What the gradebook said, with manual scores and late penalty.
        book_after: What it said afterwards.
    """

    number: int
    time: str
    reason: str
    before: Result | None
    after: Result | None
    book_before: Standing | None
    book_after: Standing | None


def entries(course: Course, lab: str, student: str) -> list[Entry]:
    """All regrades of a submission, the first first."""
    folders = [path for path in _folder(course, lab, student).glob("*") if path.name.isdecimal()]
    return [_read(path) for path in sorted(folders)]


def open_entry(course: Course, lab: str, student: str, reason: str, book: Standing | None) -> Path:
    """Keep the result that a regrade is about to replace; returns the entry's folder."""
    folder = _folder(course, lab, student)
    number = len(entries(course, lab, student)) + 1
    last = folder / f"{number - 1:04}"
    if number > 1 and not (last / AFTER).exists():
        return last
    made, part = folder / f"{number:04}", folder / f".{number:04}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    if (current := course.result(lab, student)).exists():
        shutil.copy2(current, part / BEFORE)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    about = {"number": number, "time": now, "reason": reason, "book_before": _fields(book)}
    _write(part / ABOUT, about)
    part.rename(made)
    return made


def close_entry(entry: Path, result: Result, book: Standing | None) -> Entry:
    """Complete an entry with the new result and what the gradebook says now."""
    about = json.loads((entry / ABOUT).read_text(encoding="utf-8"))
    _write(entry / ABOUT, about | {"book_after": _fields(book)})
    write_result(entry / AFTER, result)
    return _read(entry)


def _folder(course: Course, lab: str, student: str) -> Path:
    return course.reports(lab) / "history" / student


def _read(folder: Path) -> Entry:
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    return Entry(
        number=about["number"],
        time=about["time"],
        reason=about["reason"],
        before=_result(folder / BEFORE),
        after=_result(folder / AFTER),
        book_before=_standing(about.get("book_before")),
        book_after=_standing(about.get("book_after")),
    )


def _result(path: Path) -> Result | None:
    try:
        return read_result(path)
    except (FileNotFoundError, ValueError):  # what was there is kept, whatever it is
        return None


def _standing(fields: dict[str, Any] | None) -> Standing | None:
    return Standing(**fields | {"open": tuple(fields["open"])}) if fields else None


def _fields(book: Standing | None) -> dict[str, Any] | None:
    return asdict(book) if book else None


def _write(path: Path, fields: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)
