"""The only writer to nbgrader's gradebook: one transaction a submission, never `manual_score`."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from grader.course import Course, add_tools_to_path
from grader.notebooks import Notebook, grade_id, is_grade, write_notebook
from grader.release import generate
from grader.results import Result, Status
from grader.transplant import Transplanted


@contextmanager
def opened(course: Course) -> Iterator[Any]:
    """Open the course's gradebook, creating it if it is not there."""
    from nbgrader.api import Gradebook

    add_tools_to_path()
    with Gradebook(f"sqlite:///{course.gradebook}") as gradebook:
        yield gradebook


def ensure_assignment(course: Course, lab: str) -> None:
    """Record a lab's cells in the gradebook if they are not there; `labs/` is not touched."""
    from nbgrader.api import MissingEntry

    with opened(course) as gradebook:
        try:
            gradebook.find_notebook(lab, lab)
        except MissingEntry:
            missing = True
        else:
            missing = False
    if missing:
        with TemporaryDirectory() as folder:
            generate(course, lab, Path(folder))


@contextmanager
def _one_transaction(gradebook: Any) -> Iterator[None]:
    """Turn the API's many commits into flushes and commit once at the end, or roll all back."""
    session = gradebook.db
    commit = session.commit
    session.commit = session.flush
    try:
        yield
        commit()
    except BaseException:
        session.rollback()
        raise
    finally:
        session.commit = commit


def record(gradebook: Any, result: Result) -> None:
    """Write one scored result; an INVALID one is returned to its student and not recorded."""
    if result.status is Status.INVALID:
        return
    lab, student = result.lab, result.student
    with _one_transaction(gradebook), gradebook.db.no_autoflush:
        gradebook.update_or_create_student(student)
        gradebook.update_or_create_submission(lab, student, timestamp=result.received)
        for cell in result.cells:
            grade = gradebook.find_grade(cell.cell, lab, lab, student)
            grade.auto_score = cell.score
            grade.needs_manual_grade = False


def write_autograded(course: Course, result: Result, submission: Transplanted) -> None:
    """Write what formgrader shows: the transplanted notebook with each cell's verdict as output."""
    notebook = with_verdicts(submission.notebook, result)
    write_notebook(course.autograded(result.lab, result.student), notebook)


def with_verdicts(notebook: Notebook, result: Result) -> Notebook:
    """Return the notebook with the graded cells' messages as their outputs."""
    verdicts = {cell.cell: cell for cell in result.cells}
    notebook = copy.deepcopy(notebook)
    for cell in notebook["cells"]:
        if is_grade(cell) and (verdict := verdicts.get(grade_id(cell))):
            text = f"{verdict.status}: {verdict.message or 'passed'}\n"
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": text}]
    return notebook
