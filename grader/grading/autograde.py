"""Grade a class: N boxes at a time, one writer, a result and a reason for everybody."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TypeVar

from grader.box.tier import Tier
from grader.checks.core import Lab, load_lab
from grader.course import Course, is_safe_name
from grader.gradebook.counting import grade_counted
from grader.gradebook.opening import ensure_assignment, opened
from grader.gradebook.writer import record, write_autograded
from grader.grading.alone import alone
from grader.grading.questions import Job, answer
from grader.grading.submission import Grading, boxes_for
from grader.policy import LabPolicy, load_policy
from grader.results import CellResult, Result, write_result
from grader.transplant import Transplanted

Answer = Callable[[Job], tuple[CellResult, ...]]
AHEAD = 4
T = TypeVar("T")
U = TypeVar("U")


class UngradedError(ValueError):
    """The grader itself failed on some submissions; the message says on which."""


def autograde(
    course: Course,
    lab: str,
    *,
    students: list[str] | None = None,
    tier: Tier = Tier.BUBBLEWRAP,
    jobs: int | None = None,
    fresh: bool = False,
    elsewhere: Answer | None = None,
) -> Iterator[Result]:
    """Grade the submissions of a lab and yield each result once it is in the gradebook.

    Killed at any point and run again, it ends with the same gradebook: results are kept by what
    they depend on, students are recorded in a fixed order, each in one transaction.

    Args:
        course: The course.
        lab: The lab's name.
        students: Whom to grade; by default everybody who submitted.
        tier: How submissions are held; no other is ever used instead.
        jobs: Submissions at a time; by default one for each core.
        fresh: Run again what was graded before with the same answers, checks and environment.
        elsewhere: Grades a submission's answers on other machines; by default boxes here do.

    Raises:
        ValueError: No such lab, not released, no such submission, or a policy that forbids this.
        NoSandboxError: No box of this tier can be started.
        OtherGraderError: Another grader is grading this lab.
        UngradedError: At the end: the grader failed on a submission, all others are graded.
    """
    definition, release_path = load_lab(lab), course.release(lab)
    if not release_path.is_file():
        raise ValueError(f"{lab} is not released: run `grader release {lab}` first")
    policy = load_policy(course)
    if policy is not None:
        policy.refuse_below(tier)
    rules = policy.lab(lab) if policy else LabPolicy()
    chosen, unsafe = _chosen(course, lab, students)
    here = _here(course, definition, tier) if elsewhere is None else nullcontext(elsewhere)
    with alone(course, lab), here as ask:
        ensure_assignment(course, lab)
        grading = Grading(course, definition, tier, ask, fresh=fresh)
        for name in unsafe:
            refused = grading.refuse(name)
            write_result(course.result(lab, refused.student), refused)
            yield refused
        with opened(course) as gradebook:
            failed: list[str] = []
            grade = partial(_graded, course, lab, rules, grading, failed)
            for result, submission in _in_order(grade, chosen, jobs or _cores()):
                write_result(course.result(lab, result.student), result)
                if submission is not None:
                    write_autograded(course, result, submission)
                record(gradebook, result, submission, policy=policy)
                yield result
    if failed:
        raise UngradedError(
            f"the grader failed on {', '.join(sorted(failed))} and graded all others; what it "
            f"failed with stands in reports/{lab}/failures: please report it"
        )


def _graded(
    course: Course,
    lab: str,
    rules: LabPolicy,
    grading: Grading,
    failed: list[str],
    student: str,
) -> tuple[Result, Transplanted | None]:
    """Grade one student; what nobody has foreseen in a submission costs no other one."""
    try:
        return grade_counted(course, lab, rules, grading.grade, student)
    except OSError:
        raise
    except Exception as error:
        failed.append(student)
        return grading.failed(student, error), None


@contextmanager
def _here(course: Course, lab: Lab, tier: Tier) -> Iterator[Answer]:
    with boxes_for(course, lab, tier) as boxes:
        yield partial(answer, boxes)


def _cores() -> int:
    return os.cpu_count() or 1


def _in_order(work: Callable[[T], U], items: Iterable[T], workers: int) -> Iterator[U]:
    """What `work` returns for each item, in the items' order; few are held at a time."""
    waiting: deque[Future[U]] = deque()
    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _chosen(course: Course, lab: str, students: list[str] | None) -> tuple[list[str], list[str]]:
    """The students to grade in a fixed order, and folders whose names cannot be a student's id."""
    present = course.students(lab)
    if not present:
        raise ValueError(f"nobody has submitted {lab}: there is no submitted/<student>/{lab}/")
    unknown = sorted(name for name in set(students or ()) if name not in present)
    if unknown:
        raise ValueError(f"no submission of {lab} by {', '.join(unknown)}")
    chosen = sorted(set(students)) if students else present
    return [n for n in chosen if is_safe_name(n)], [n for n in chosen if not is_safe_name(n)]
