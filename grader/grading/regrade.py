"""Grade submissions again whatever the cache says, keeping what that replaces."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from grader.box.tier import Limits, Tier
from grader.checks.core import load_lab
from grader.course import Course, safe_name
from grader.gradebook.history import Entry, close_entry, open_entry
from grader.gradebook.opening import opened
from grader.gradebook.writer import Standing, standing
from grader.grading.autograde import autograde
from grader.grading.cache import Cache, environment
from grader.grading.submission import seed_key, versions
from grader.results import CellResult, Result, Status, read_result


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """How a question's outcome changed; None where one of the results did not have it."""

    question: str
    before: CellResult | None
    after: CellResult | None


def regrade(
    course: Course,
    lab: str,
    students: list[str],
    *,
    reason: str,
    tier: Tier = Tier.BUBBLEWRAP,
    jobs: int | None = None,
) -> Iterator[Entry]:
    """Grade submissions again and yield what became of each, which is also in the history.

    Raises:
        ValueError: No such lab, not released, or no such submission.
        NoSandboxError: No box of this tier can be started.
    """
    students = [safe_name(student, "student") for student in dict.fromkeys(students)]
    missing = sorted(set(students) - set(course.students(lab)))
    if missing:
        raise ValueError(f"no submission of {lab} by {', '.join(missing)}")
    begun = {}
    for student in students:
        before = _standing(course, lab, student)
        begun[student] = open_entry(course, lab, student, reason, before)
    for result in autograde(course, lab, students=students, tier=tier, jobs=jobs, fresh=True):
        after = _standing(course, lab, result.student)
        yield close_entry(begun[result.student], result, after)


def _standing(course: Course, lab: str, student: str) -> Standing | None:
    if not course.gradebook.exists():
        return None
    with opened(course) as gradebook:
        return standing(gradebook, lab, student)


def outdated(course: Course, lab: str, tier: Tier = Tier.BUBBLEWRAP) -> list[str]:
    """Students whose results are not from today's checks, release, key and versions.

    A submission that ran out of time counts too: the cache does not keep it, since the machine
    may have been the reason. So does one whose result cannot be read. INVALID ones were never run.

    Raises:
        ValueError: Nobody was graded yet.
    """
    paths = sorted((course.reports(lab) / "results").glob("*.json"))
    if not paths:
        raise ValueError(f"{lab} has no results yet: run `grader autograde {lab}` first")
    definition, release = load_lab(lab), course.release(lab)
    facts = (tier, Limits.of(definition), versions(), seed_key(course))
    cache = Cache(course.cache(lab), environment(lab, release, *facts))
    present = course.students(lab)
    return [path.stem for path in paths if _is_outdated(path, cache) and path.stem in present]


def _is_outdated(path: Path, cache: Cache) -> bool:
    try:
        result = read_result(path)
    except (ValueError, OSError):
        return True
    return result.status is not Status.INVALID and cache.get(result.sha256) is None


def changes(before: Result | None, after: Result) -> list[Change]:
    """The questions whose points or status differ, in the order of the notebook."""
    old = {cell.cell: cell for cell in before.cells} if before else {}
    new = {cell.cell: cell for cell in after.cells}
    pairs = [(name, old.get(name), new.get(name)) for name in {**old, **new}]
    return [
        Change(question=name, before=first, after=second)
        for name, first, second in pairs
        if first is None
        or second is None
        or (first.score, first.status) != (second.score, second.status)
    ]
