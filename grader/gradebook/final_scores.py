"""What a submission is worth in the end: the gradebook's points with people's, less the penalty.

Where the gradebook has nothing on a submission, what the checks gave counts.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grader.course import Course
from grader.gradebook.opening import opened
from grader.gradebook.writer import apply_policy
from grader.policy import load_policy
from grader.results import Result, Status


@dataclass(frozen=True, kw_only=True, slots=True)
class BookCell:
    """One graded cell in the gradebook.

    Attributes:
        points: A person's if they gave any, else the checks'; with extra credit.
        max_score: Points there are.
        by_hand: Whether a person set the points or extra credit.
        waiting: Whether a person still has to look at it.
    """

    points: float
    max_score: float
    by_hand: bool
    waiting: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A submission in the gradebook.

    Attributes:
        cells: Its graded cells by name.
        comments: What was written to the student, by the name of the solution cell or task.
        late_penalty: Points to take off.
    """

    cells: Mapping[str, BookCell] = field(default_factory=dict)
    comments: Mapping[str, str] = field(default_factory=dict)
    late_penalty: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Final:
    """What counts.

    Attributes:
        score: After the penalty, never below 0; None if there is nothing to enter anywhere.
        max_score: Points there are, those a person gives included.
        auto_score: What the checks gave; None if the submission was returned unscored.
        late_penalty: Points taken off.
        waiting: Cells that a person has to look at or that this machine could not check and
            nobody gave points for: the score may change.
        excused: The lab is left out when this student's scores are added up.
    """

    score: float | None
    max_score: float
    auto_score: float | None
    late_penalty: float = 0.0
    waiting: tuple[str, ...] = ()
    excused: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Book:
    """What the gradebook and the policy say of a lab."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    excused: frozenset[str] = frozenset()

    def final(self, result: Result) -> Final:
        """The score that counts for a result."""
        auto = None if result.status is Status.INVALID else result.score
        excused, entry = result.student in self.excused, self.entries.get(result.student)
        waiting = {cell.cell for cell in result.cells if cell.status is Status.BLOCKED}
        if entry is None:
            return Final(
                score=auto,
                max_score=result.max_score,
                auto_score=auto,
                waiting=tuple(sorted(waiting)),
                excused=excused,
            )
        waiting -= {name for name, cell in entry.cells.items() if cell.by_hand}
        waiting |= {name for name, cell in entry.cells.items() if cell.waiting}
        earned = sum(cell.points for cell in entry.cells.values())
        return Final(
            score=max(0.0, earned - entry.late_penalty),
            max_score=sum(cell.max_score for cell in entry.cells.values()),
            auto_score=auto,
            late_penalty=entry.late_penalty,
            waiting=tuple(sorted(waiting)),
            excused=excused,
        )


def read_book(course: Course, lab: str) -> Book:
    """Read a lab's submissions from the gradebook; nothing where there is no gradebook.

    Penalties are a share of the points earned, so those in the gradebook are first brought up to
    date with what people entered since.
    """
    policy = load_policy(course)
    excused = frozenset() if policy is None else policy.lab(lab).excused
    if not course.gradebook.exists():
        return Book(excused=excused)
    with opened(course) as gradebook:
        if policy is not None and _has_lab(gradebook, lab):
            apply_policy(gradebook, lab, policy)
        return Book(entries=_entries(gradebook, lab), excused=excused)


def _has_lab(gradebook: Any, lab: str) -> bool:
    return any(assignment.name == lab for assignment in gradebook.assignments)


def _entries(gradebook: Any, lab: str) -> dict[str, Entry]:
    cells, comments = _cells(gradebook, lab), _comments(gradebook, lab)
    return {
        student: Entry(cells=cells[student], comments=comments[student], late_penalty=penalty)
        for student, penalty in _penalties(gradebook, lab)
    }


def _penalties(gradebook: Any, lab: str) -> list[tuple[str, float]]:
    from nbgrader import api

    query = gradebook.db.query(
        api.SubmittedAssignment.student_id, api.SubmittedNotebook.late_submission_penalty
    )
    query = query.select_from(api.SubmittedNotebook).join(api.SubmittedNotebook.assignment)
    rows = query.join(api.SubmittedAssignment.assignment).filter(api.Assignment.name == lab)
    return [(str(student), float(penalty or 0.0)) for student, penalty in rows]


def _cells(gradebook: Any, lab: str) -> dict[str, dict[str, BookCell]]:
    from nbgrader import api

    kinds = (api.GradeCell, api.TaskCell)
    most = {cell.id: float(cell.max_score) for kind in kinds for cell in gradebook.db.query(kind)}
    found: dict[str, dict[str, BookCell]] = defaultdict(dict)
    for student, name, grade in _of_lab(gradebook, lab, api.Grade):
        given = (grade.manual_score, grade.auto_score, 0.0)
        points = next(score for score in given if score is not None)
        found[student][name] = BookCell(
            points=points + (grade.extra_credit or 0.0),
            max_score=most[grade.cell_id],
            by_hand=grade.manual_score is not None or bool(grade.extra_credit),
            waiting=bool(grade.needs_manual_grade),
        )
    return found


def _comments(gradebook: Any, lab: str) -> dict[str, dict[str, str]]:
    from nbgrader import api

    found: dict[str, dict[str, str]] = defaultdict(dict)
    for student, name, comment in _of_lab(gradebook, lab, api.Comment):
        text = comment.auto_comment if comment.manual_comment is None else comment.manual_comment
        if text and text.strip():
            found[student][name] = text
    return found


def _of_lab(gradebook: Any, lab: str, kind: Any) -> Any:
    """Rows of (student, cell's name, `Grade` or `Comment`) of a lab, in one query."""
    from nbgrader import api

    query = gradebook.db.query(api.SubmittedAssignment.student_id, api.BaseCell.name, kind)
    query = query.select_from(kind).join(kind.cell).join(kind.notebook)
    query = query.join(api.SubmittedNotebook.assignment).join(api.SubmittedAssignment.assignment)
    return query.filter(api.Assignment.name == lab)
