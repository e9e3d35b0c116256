"""Which of a student's attempts counts, by the course's policy.

`grader collect` keeps every attempt in `attempts/<lab>/<student>/<n>/`; the one that counts lies in
`submitted/`, where formgrader and plain nbgrader look for it.
"""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from grader.course import Course
from grader.policy import LabPolicy
from grader.results import Result, Status
from grader.transplant import Transplanted

TIMESTAMP = "timestamp.txt"
Graded = tuple[Result, Transplanted | None]


def attempts(course: Course, lab: str, student: str) -> list[Path]:
    """The folders of all attempts in the order in which they were collected."""
    found = (course.root / "attempts" / lab / student).glob("*")
    return sorted((path for path in found if path.name.isdecimal()), key=lambda p: int(p.name))


def to_grade(course: Course, lab: str, student: str, rules: LabPolicy) -> list[Path]:
    """The folders to grade: one, or with "best" all that may count; then ask `choose`.

    Where the latest counts without limit, and where nothing was collected, it is what lies in
    `submitted/`, whatever put it there.
    """
    counts, most = rules.attempts.counts, rules.attempts.most
    collected = attempts(course, lab, student)
    if not collected or (counts == "latest" and most is None):
        return [course.submitted(lab, student).parent]
    allowed = sorted(collected, key=_received)[:most]
    if counts == "best":
        return allowed
    return allowed[:1] if counts == "first" else allowed[-1:]


def _received(attempt: Path) -> int:
    return int(attempt.stat().st_mtime)


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
        received = datetime.fromisoformat(result.received)
        return result.score * (1 - rules.share_lost(result.student, received))

    return max(range(len(results)), key=earned)


def content_sha256(folder: Path) -> str:
    """A hash of a submission's files and their paths; its time stamp is none of them."""
    digest = hashlib.sha256()
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    for path in sorted(files):
        name = path.relative_to(folder).as_posix()
        if name != TIMESTAMP:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{content} {name}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def put_forward(course: Course, lab: str, student: str, attempt: Path) -> None:
    """Make an attempt the one in `submitted/`; its folder's time, the receipt, is kept.

    What lay there and was put there by hand becomes an attempt, so that it is not lost.
    """
    target = course.submitted(lab, student).parent
    if attempt == target:
        return
    _keep_by_hand(target, attempts(course, lab, student))
    part = target.with_name(f".{lab}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(attempt, part, symlinks=True)
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


def _keep_by_hand(folder: Path, collected: list[Path]) -> None:
    if not folder.is_dir():
        return
    if content_sha256(folder) not in {content_sha256(attempt) for attempt in collected}:
        number = max(int(attempt.name) for attempt in collected) + 1
        part = collected[0].with_name(".part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(folder, part, symlinks=True)
        part.rename(collected[0].with_name(str(number)))
