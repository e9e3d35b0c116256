"""Which of a student's attempts counts, by the course's policy.

`grader collect` keeps every attempt in `attempts/<lab>/<student>/<n>/`; the one that counts lies in
`submitted/`, where formgrader and plain nbgrader look for it.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from grader.course import Course
from grader.gradebook.attempts import (
    attempts,
    clear,
    content_sha256,
    is_folder,
    keep,
    put,
    received,
)
from grader.policy import LabPolicy
from grader.results import Result, Status
from grader.transplant import Transplanted

Graded = tuple[Result, Transplanted | None]


def to_grade(course: Course, lab: str, student: str, rules: LabPolicy) -> list[Path]:
    """The folders to grade: one, or with "best" all that may count; then ask `choose`.

    Where the latest counts without limit, and where nothing was collected, it is what lies in
    `submitted/`, whatever put it there.
    """
    counts, most = rules.attempts.counts, rules.attempts.most
    collected = attempts(course, lab, student)
    if not collected or (counts == "latest" and most is None):
        return [course.submitted(lab, student).parent]
    allowed = sorted(collected, key=received)[:most]
    if counts == "best":
        return allowed
    return allowed[:1] if counts == "first" else allowed[-1:]


def grade_counted(
    course: Course, lab: str, rules: LabPolicy, grade: Callable[[str], Graded], student: str
) -> Graded:
    """Grade a student's attempts, leave the one that counts in `submitted/`, return its result.

    Args:
        course: The course.
        lab: The lab's name.
        rules: The lab's policy.
        grade: Grades what lies in `submitted/` of a student.
        student: Whose attempts.
    """
    folders = to_grade(course, lab, student, rules)
    graded = []
    for folder in folders:
        put_forward(course, lab, student, folder)
        graded.append(grade(student))
    best = choose(rules, [result for result, _ in graded])
    if best == len(folders) - 1:
        return graded[best]
    put_forward(course, lab, student, folders[best])
    return grade(student)


def choose(rules: LabPolicy, results: Sequence[Result]) -> int:
    """The index of the result that counts: most points after the penalty, of equals the first."""

    def earned(index: int) -> float:
        result = results[index]
        if result.status is Status.INVALID:
            return -1.0
        moment = datetime.fromisoformat(result.received)
        return result.score * (1 - rules.share_lost(result.student, moment))

    return max(range(len(results)), key=earned)


def put_forward(course: Course, lab: str, student: str, attempt: Path) -> None:
    """Make an attempt the one in `submitted/`; its folder's time, the receipt, is kept.

    What lay there and was put there by hand becomes an attempt, so that it is not lost.
    """
    target = course.submitted(lab, student).parent
    if attempt == target:
        return
    clear(target.parent, attempt.parent)
    known = {content_sha256(each) for each in attempts(course, lab, student)}
    if is_folder(target) and content_sha256(target) not in known:
        keep(target, attempt.parent)
    put(attempt, target)
