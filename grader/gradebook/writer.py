"""The only writer to nbgrader's gradebook: one transaction a submission.

What people entered there, manual scores, extra credit and comments, is left alone.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from grader.course import Course
from grader.gradebook.manual_grades import record_work
from grader.gradebook.opening import named_errors, wait_for_lock
from grader.manual import answers, shown
from grader.notebooks import Notebook, grade_id, is_grade, write_notebook
from grader.policy import LabPolicy, Policy
from grader.results import Result, Status, replacing
from grader.transplant import Transplanted

PENALTY_DECIMALS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What the gradebook says of a submission: points with manual ones, the penalty to take off.

    Attributes:
        open: Cells that wait for a person.
    """

    score: float
    late_penalty: float
    open: tuple[str, ...]


@contextmanager
def _one_transaction(gradebook: Any) -> Iterator[None]:
    """Turn the API's many commits into flushes and commit once at the end, or roll all back.

    The write lock is taken first, so that nobody's entry comes between reading and writing.
    """
    session = gradebook.db
    commit = session.commit
    with named_errors(Path(gradebook.engine.url.database)):
        wait_for_lock(gradebook)
        session.commit = session.flush
        try:
            yield
            commit()
        except BaseException:
            session.rollback()
            raise
        finally:
            session.commit = commit


def record(
    gradebook: Any,
    result: Result,
    submission: Transplanted | None = None,
    *,
    policy: Policy | None = None,
) -> None:
    """Write one scored result; an INVALID one is returned to its student and not recorded.

    Args:
        gradebook: From `opening.opened`.
        result: What grading found.
        submission: What was graded; without it, cells that a person grades stay as they are.
        policy: The course's rules; without them, due dates and penalties stay as they are.

    Raises:
        ValueError: The gradebook knows the lab with other cells.
        GradebookLockedError: It stayed locked.
        NoRoomError: Its disk is full. Whatever was raised, nothing was written.
    """
    if result.status is Status.INVALID:
        return
    lab, student = result.lab, result.student
    with _one_transaction(gradebook), gradebook.db.no_autoflush:
        gradebook.update_or_create_student(student)
        gradebook.update_or_create_submission(lab, student, timestamp=result.received)
        notebook = gradebook.find_submission_notebook(lab, lab, student)
        grades = _by_cell(gradebook, notebook, "Grade")
        _refuse_unknown(lab, submission, result, grades)
        for cell in result.cells:
            _record_score(grades[cell.cell], cell.score)
        if submission is not None:
            comments = _by_cell(gradebook, notebook, "Comment")
            record_work(gradebook.db, submission, grades, comments)
        if policy is not None:
            received = datetime.fromisoformat(result.received)
            _apply(gradebook, notebook, policy.lab(lab), student, received)


def apply_policy(gradebook: Any, lab: str, policy: Policy) -> None:
    """Set due date, extensions and penalties of everybody in the gradebook anew.

    A penalty is a share of the points earned, so it changes with a manual score.
    """
    with _one_transaction(gradebook):
        for notebook in gradebook.notebook_submissions(lab, lab):
            if (received := notebook.assignment.timestamp) is not None:
                student, received = notebook.student.id, received.replace(tzinfo=UTC)
                _apply(gradebook, notebook, policy.lab(lab), student, received)


def standing(gradebook: Any, lab: str, student: str) -> Standing | None:
    """A student's standing in a lab; None if the gradebook has no submission of theirs."""
    from nbgrader.api import MissingEntry

    gradebook.db.rollback()
    try:
        notebook = gradebook.find_submission_notebook(lab, lab, student)
    except MissingEntry:
        return None
    grades = _by_cell(gradebook, notebook, "Grade")
    return Standing(
        score=notebook.score,
        late_penalty=notebook.late_submission_penalty or 0.0,
        open=tuple(sorted(name for name, grade in grades.items() if grade.needs_manual_grade)),
    )


def _by_cell(gradebook: Any, notebook: Any, kind: str) -> dict[str, Any]:
    """A submitted notebook's `Grade`s or `Comment`s by the names of their cells, in one query."""
    from nbgrader import api

    entry = getattr(api, kind)
    rows = gradebook.db.query(api.BaseCell.name, entry).join(
        entry, entry.cell_id == api.BaseCell.id
    )
    return dict(rows.filter(entry.notebook_id == notebook.id))


def _refuse_unknown(
    lab: str, submission: Transplanted | None, result: Result, grades: dict[str, Any]
) -> None:
    """The gradebook must have the lab with the cells of the release that was graded."""
    manual = answers(submission.notebook) if submission else {}
    for name in (*(cell.cell for cell in result.cells), *manual):
        if name not in grades:
            raise ValueError(
                f"the gradebook has {lab} without the cell {name!r}, from another release: "
                f"release that one again, or remove the lab with all its grades from the gradebook "
                f"by `nbgrader db assignment remove {lab}`"
            )


def _record_score(grade: Any, score: float) -> None:
    """Set an automatic score; a person looks again where theirs stood over another one."""
    if grade.auto_score != score:
        grade.auto_score = score
        grade.needs_manual_grade = grade.manual_score is not None


def _apply(
    gradebook: Any, notebook: Any, rules: LabPolicy, student: str, received: datetime
) -> None:
    """Set due date, extension and penalty where nbgrader keeps them, in UTC and in points."""
    submission = notebook.assignment
    if rules.due is not None:
        due = rules.due_for(student) or rules.due
        submission.assignment.duedate = rules.due.astimezone(UTC).replace(tzinfo=None)
        submission.extension = due - rules.due if due != rules.due else None
    gradebook.db.flush()
    lost = rules.share_lost(student, received) * notebook.score
    notebook.late_submission_penalty = round(max(lost, 0.0), PENALTY_DECIMALS) or None


def write_autograded(course: Course, result: Result, submission: Transplanted) -> None:
    """Write what formgrader shows: the transplanted notebook with each cell's verdict as output."""
    with replacing(course.autograded(result.lab, result.student)) as part:
        write_notebook(part, with_verdicts(submission.notebook, result))


def with_verdicts(notebook: Notebook, result: Result) -> Notebook:
    """Return the notebook with the checks' messages as outputs and its Markdown made harmless."""
    verdicts = {cell.cell: cell for cell in result.cells}
    notebook = copy.deepcopy(notebook)
    notebook["cells"] = [shown(cell) for cell in notebook["cells"]]
    for cell in notebook["cells"]:
        if is_grade(cell) and (verdict := verdicts.get(grade_id(cell))):
            text = f"{verdict.status}: {verdict.message or 'passed'}\n"
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": text}]
    return notebook
