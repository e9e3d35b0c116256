"""How far a learner is in each lab: exercises that pass, points, minutes left.

What the checks said is kept beside the reports under a hash of all that it depends on, so that a
notebook is run again only when its code or its checks have changed, or by `grader check`.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grader
import labkit
from grader.course import Course
from grader.learner.selfcheck import Exercise, check, own_notebook, strongest_boxes
from grader.manual import is_manual
from grader.notebooks import Notebook, grade_id, is_solution, nbgrader, source, tags
from grader.results import Status
from labkit.runtime.cache import atomic_path

MINUTES = re.compile(r"^\*.*?(\d+) minutes\*$", re.MULTILINE)
CODE, REFERENCE = Path(grader.__file__).parent, Path(labkit.__file__).parent


@dataclass(frozen=True, kw_only=True, slots=True)
class LabProgress:
    """One lab's exercises, and the minutes that its notebook gives for each; or what is wrong."""

    lab: str
    exercises: tuple[Exercise, ...] = ()
    minutes: tuple[tuple[str, int], ...] = ()
    problem: str = ""

    @property
    def passing(self) -> int:
        return sum(exercise.passes for exercise in self.exercises)

    @property
    def points(self) -> int:
        return sum(exercise.points for exercise in self.exercises if exercise.passes)

    @property
    def max_points(self) -> int:
        return sum(exercise.points for exercise in self.exercises)

    @property
    def minutes_left(self) -> int:
        """Of the exercises that do not pass; one whose header was lost counts nothing."""
        left = {exercise.name for exercise in self.exercises if not exercise.passes}
        return sum(minutes for name, minutes in self.minutes if name in left)

    def as_json(self) -> dict[str, Any]:
        """Everything about this lab as plain values."""
        minutes = dict(self.minutes)
        exercises = [
            asdict(exercise) | {"minutes": minutes.get(exercise.name)}
            for exercise in self.exercises
        ]
        names = ("lab", "passing", "points", "max_points", "minutes_left", "problem")
        return {name: getattr(self, name) for name in names} | {"exercises": exercises}


def progress(course: Course, labs: Iterable[str]) -> Iterator[LabProgress]:
    """Yield each lab's progress; a notebook that cannot be read does not stop the others."""
    for lab in labs:
        try:
            yield _progress(course, lab)
        except ValueError as error:
            yield LabProgress(lab=lab, problem=str(error))


def _progress(course: Course, lab: str) -> LabProgress:
    _, notebook = own_notebook(course, lab)
    exercises = recall(course, lab, notebook)
    if exercises is None:
        with strongest_boxes(lab) as boxes:
            exercises = tuple(check(boxes, notebook))
        remember(course, lab, notebook, exercises)
    minutes = tuple(minutes_of(notebook).items())
    return LabProgress(lab=lab, exercises=exercises, minutes=minutes)


def minutes_of(notebook: Notebook) -> dict[str, int]:
    """Minutes by exercise, from the header above its solution cell: the one place they stand.

    Where a written answer and then code lie below one header, the code has them.
    """
    found: dict[str, int] = {}
    above: int | None = None
    written = ""
    for cell in notebook["cells"]:
        if not isinstance(cell, dict):
            continue
        if cell.get("cell_type") == "markdown" and (match := MINUTES.search(source(cell))):
            above, written = int(match[1]), ""
        elif is_solution(cell) and above is not None:
            found.pop(written, None)
            found[grade_id(cell)] = above
            written = grade_id(cell)
            above = above if is_manual(cell) else None
    return found


def recall(course: Course, lab: str, notebook: Notebook) -> tuple[Exercise, ...] | None:
    """What the checks said when all was as it is now; None when something has changed."""
    try:
        kept = json.loads(_kept(course, lab).read_text(encoding="utf-8"))
        if kept["key"] != _key(lab, notebook):
            return None
        return tuple(
            Exercise(**fields | {"status": Status(fields["status"])})
            for fields in kept["exercises"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(course: Course, lab: str, notebook: Notebook, exercises: Iterable[Exercise]) -> None:
    """Keep what the checks said; where nothing can be written, the next call runs them again."""
    kept = {"key": _key(lab, notebook), "exercises": [asdict(item) for item in exercises]}
    with suppress(OSError), atomic_path(_kept(course, lab)) as path:
        path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _kept(course: Course, lab: str) -> Path:
    return course.reports(lab) / "progress.json"


def _key(lab: str, notebook: Notebook) -> str:
    """Hash of the notebook's code, the checks' and labkit's; outputs and prose do not count."""
    digest = hashlib.sha256()
    for cell in notebook["cells"]:
        if isinstance(cell, dict) and cell.get("cell_type") == "code":
            text = json.dumps([nbgrader(cell), tags(cell), source(cell)], sort_keys=True)
            digest.update(text.encode() + b"\n")
    code = (*CODE.glob("checks/*.py"), *CODE.glob(f"labs/{lab}/*.*"), *REFERENCE.rglob("*.py"))
    for path in sorted(code):
        digest.update(path.read_bytes())
    return digest.hexdigest()
