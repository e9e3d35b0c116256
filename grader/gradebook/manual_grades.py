"""Asking for a person's grade when the work they grade is new or has changed, and only then.

The hash of the work that was last recorded for a grade stands in a table of its own in the
gradebook, so that it changes in the same transaction as the grade.
"""

from collections.abc import Mapping
from typing import Any

from grader.manual import answers, is_task
from grader.notebooks import grade_id
from grader.transplant import Transplanted

NO_RESPONSE = "No response."
WORK_TABLE = """
CREATE TABLE IF NOT EXISTS grader_work (
    grade_id VARCHAR(32) NOT NULL PRIMARY KEY, sha256 VARCHAR(64) NOT NULL
)
"""


def record_work(
    session: Any, submission: Transplanted, grades: Mapping[str, Any], comments: Mapping[str, Any]
) -> None:
    """Update a submission's manually graded cells inside the caller's transaction.

    As in nbgrader, an answer left as released scores 0 by itself, a task is always looked at,
    and an old manual score stays visible; unlike there, a rerun alone asks for nothing again.

    Args:
        session: The gradebook's database session.
        submission: What was handed in.
        grades: The submission's grades by the names of their cells.
        comments: Its comments likewise.
    """
    cells = submission.notebook["cells"]
    answered = submission.answered | {grade_id(cell) for cell in cells if is_task(cell)}
    for name, sha256 in answers(submission.notebook).items():
        grade = grades[name]
        if _swap(session, grade.id, sha256) != sha256:
            grade.auto_score = None if name in answered else 0.0
            grade.needs_manual_grade = name in answered or grade.manual_score is not None
    for name, comment in comments.items():
        comment.auto_comment = None if name in answered else NO_RESPONSE


def _swap(session: Any, grade: str, sha256: str) -> str:
    """Store the hash of the work a grade is for and return the one stored before."""
    from sqlalchemy import text

    row = {"grade": grade, "sha256": sha256}
    session.execute(text(WORK_TABLE))
    old = session.scalar(text("SELECT sha256 FROM grader_work WHERE grade_id = :grade"), row)
    if old is None:
        session.execute(text("INSERT INTO grader_work VALUES (:grade, :sha256)"), row)
    elif old != sha256:
        change = "UPDATE grader_work SET sha256 = :sha256 WHERE grade_id = :grade"
        session.execute(text(change), row)
    return str(old or "")
