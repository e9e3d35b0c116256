"""Grade a class: N boxes at a time, one writer, a result and a reason for everybody."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from grader.box.boxes import Boxes
from grader.box.tier import Tier
from grader.checks.core import load_lab
from grader.course import Course, is_safe_name
from grader.gradebook import ensure_assignment, opened, record, write_autograded
from grader.grading import grade_submission, refuse_folder, seed_key
from grader.notebooks import read_notebook
from grader.results import Result, write_result


def autograde(
    course: Course,
    lab: str,
    *,
    students: list[str] | None = None,
    tier: Tier = Tier.BUBBLEWRAP,
    jobs: int | None = None,
) -> Iterator[Result]:
    """Grade the submissions of a lab and yield each result once it is in the gradebook.

    Args:
        course: The course.
        lab: The lab's name.
        students: Whom to grade; by default everybody who submitted.
        tier: How submissions are held; below bubblewrap only if asked for.
        jobs: Boxes at a time; by default one for each core.

    Raises:
        ValueError: No such lab, not released, or no such submission.
        NoSandboxError: No box of this tier can be started.
    """
    definition, release_path = load_lab(lab), course.release(lab)
    if not release_path.is_file():
        raise ValueError(f"{lab} is not released: run `grader release {lab}` first")
    chosen, unsafe = _chosen(course, lab, students)
    release = read_notebook(release_path)
    ensure_assignment(course, lab)
    key = seed_key(course)
    workers = jobs or os.cpu_count() or 1
    with (
        Boxes(definition, tier) as boxes,
        opened(course) as gradebook,
        ThreadPoolExecutor(max_workers=workers) as pool,
    ):
        for name in unsafe:
            refused = refuse_folder(boxes, course.submitted(lab, name).parent, name, release)
            write_result(course.reports(lab) / "results" / f"{refused.student}.json", refused)
            yield refused
        folders = [course.submitted(lab, student).parent for student in chosen]
        waiting = [
            pool.submit(grade_submission, boxes, folder, student, release, key)
            for student, folder in zip(chosen, folders, strict=True)
        ]
        for graded in waiting:
            result, submission = graded.result()
            write_result(course.reports(lab) / "results" / f"{result.student}.json", result)
            if submission is not None:
                write_autograded(course, result, submission)
            record(gradebook, result)
            yield result


def _chosen(course: Course, lab: str, students: list[str] | None) -> tuple[list[str], list[str]]:
    """The students to grade in a fixed order, and folders whose names cannot be a student's id."""
    present = course.students(lab)
    if not present:
        raise ValueError(f"nobody has submitted {lab}: there is no submitted/<student>/{lab}/")
    unknown = sorted(name for name in set(students or ()) if name not in present)
    if unknown:
        raise ValueError(f"no submission of {lab} by {', '.join(unknown)}")
    chosen = sorted(students) if students else present
    return [n for n in chosen if is_safe_name(n)], [n for n in chosen if not is_safe_name(n)]
