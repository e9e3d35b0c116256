"""Scores for other systems: CSV for spreadsheets, Canvas and Moodle, and JSON with everything.

The score is the final one: a person's points where they gave any, less the late penalty.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from grader.course import Course
from grader.gradebook.final_scores import Book, Entry, Final, read_book
from grader.reports.class_list import Person, read_class_list
from grader.reports.spreadsheet import BYTE_ORDER_MARK, POINT_DECIMALS, Cell, as_csv, as_points
from grader.reports.stored_results import read_stored
from grader.results import Result, Status, replacing

FORMAT = 1
SCHEMA = Path(__file__).with_name("scores.schema.json")
EXCUSED, NO_GRADE = "EX", "-"  # Canvas's word and Moodle's


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """A lab's results with the scores that count.

    Attributes:
        results: In the students' order.
        book: What the gradebook and the policy say.
        people: The roster by id; empty without one.
        column: What the platform calls the assignment.
        unreadable: Results that are left out, by name, and why.
    """

    lab: str
    results: Sequence[Result]
    book: Book = field(default_factory=Book)
    people: Mapping[str, Person] = field(default_factory=dict)
    column: str = ""
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return self.column or self.lab

    @property
    def max_score(self) -> float:
        return max((self.book.final(result).max_score for result in self.results), default=0.0)

    def entered(self) -> list[tuple[Person, Result | None, Final | None]]:
        """Who is excused, with no score, and who has one, in the order of their ids.

        Nobody else: a learning platform takes an empty score for one to be removed.
        """
        by_id = {result.student: result for result in self.results}
        finals = {name: self.book.final(result) for name, result in by_id.items()}
        scored = {name for name, final in finals.items() if final.score is not None}
        return [
            (
                self.people.get(name, Person(id=name)),
                by_id.get(name),
                None if name in self.book.excused else finals[name],
            )
            for name in sorted(scored | self.book.excused)
        ]

    def unlisted(self) -> list[str]:
        """Who is entered and not in the roster, if there is one."""
        ids = [person.id for person, _, _ in self.entered()]
        return [name for name in ids if self.people and name not in self.people]

    def left_out(self) -> list[str]:
        """Who is in the roster and has nothing to enter."""
        return sorted({*self.people} - {person.id for person, _, _ in self.entered()})

    def waiting(self) -> list[str]:
        """Whose score may change when a person has looked at their answers."""
        return [result.student for result in self.results if self.book.final(result).waiting]


def read_scores(
    course: Course, lab: str, *, roster: Path | None = None, column: str = ""
) -> Scores:
    """Read what is to be exported; ValueError if nothing was graded."""
    stored = read_stored(course, lab)
    return Scores(
        lab=lab,
        results=stored.results,
        book=read_book(course, lab),
        people=read_class_list(roster) if roster else {},
        column=column,
        unreadable=stored.unreadable,
    )


def write(course: Course, scores: Scores, formats: Sequence[str] = ()) -> list[Path]:
    """Write files of some or all `FORMATS` to `reports/<lab>/`; returns their paths."""
    made = {FORMATS[name][0]: FORMATS[name][1](scores) for name in formats or FORMATS}
    paths = []
    for name, text in made.items():
        path = course.reports(scores.lab) / name
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8", newline="")
        paths.append(path)
    return paths


def for_spreadsheet(scores: Scores) -> str:
    """One row a result: status, final score, points of each exercise, and how it came about."""
    checks = list(dict.fromkeys(c.check for result in scores.results for c in result.cells))
    header = ["student", "lab", "status", "score", "max_score", *checks]
    header += ["auto_score", "late_penalty", "waiting", "excused", "reason"]
    rows: list[list[Cell]] = [[*header]]
    for result in scores.results:
        final = scores.book.final(result)
        entry = scores.book.entries.get(result.student, Entry())
        points = _points(result, entry)
        rows.append(
            [result.student, result.lab, result.status.value, final.score, final.max_score]
            + [points.get(check) for check in checks]
            + [final.auto_score, final.late_penalty, " ".join(final.waiting)]
            + ["yes" if final.excused else "", result.reason]
        )
    return BYTE_ORDER_MARK + as_csv(rows)


def _points(result: Result, entry: Entry) -> dict[str, float]:
    """An exercise's points: of each of its cells a person's, if they gave any."""
    points: dict[str, float] = {}
    for cell in result.cells:
        counted = entry.cells[cell.cell].points if cell.cell in entry.cells else cell.score
        points[cell.check] = points.get(cell.check, 0.0) + counted
    return points


def for_canvas(scores: Scores) -> str:
    """What Canvas's gradebook imports.

    It finds a student by ID, or else by an SIS column, or else by name; it finds the assignment
    by the number in parentheses, or else by its title, and makes a new one where it finds none.
    """
    header = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", scores.title]
    rows: list[list[Cell]] = [[*header]]
    rows.append(["    Points Possible", None, None, None, None, scores.max_score])
    for person, _, final in scores.entered():
        who = [person.name or person.id, person.canvas_id, person.sis_id, person.login]
        rows.append([*who, person.section, final.score if final else EXCUSED])
    return as_csv(rows, decimals=POINT_DECIMALS)


def for_moodle(scores: Scores) -> str:
    """What Moodle's grade import reads: map a column on a user, the grade, and the feedback.

    A column that Moodle may find users by is only there if nobody's cell in it is empty: where
    one is, Moodle gives the grade to the user of the line before.
    """
    entered = scores.entered()
    known = [c for c in ("email", "idnumber") if all(getattr(p, c) for p, _, _ in entered)]
    rows: list[list[Cell]] = [["username", *known, scores.title, f"{scores.title} feedback"]]
    for person, result, final in entered:
        said = _summary(result, final) if result and final else "Excused."
        ids = [getattr(person, column) for column in known]
        rows.append([person.login, *ids, final.score if final else NO_GRADE, said])
    return as_csv(rows, decimals=POINT_DECIMALS)


def _summary(result: Result, final: Final) -> str:
    """One line for the student, made of names, statuses and numbers: Moodle shows it as HTML."""
    assert final.score is not None, "only who has a score is entered"
    worst: dict[str, Status] = {}
    for cell in result.cells:
        if cell.score < cell.points:
            worst.setdefault(cell.check, cell.status)
    said = [f"{as_points(final.score)} of {as_points(final.max_score)} points."]
    said += [f"{check}: {status.value}." for check, status in worst.items()]
    if final.late_penalty:
        said.append(f"Late: {as_points(final.late_penalty)} points less.")
    if final.waiting:
        said.append("Not final yet.")
    return " ".join(said)


def as_json(scores: Scores) -> str:
    """Everything, as `scores.schema.json` describes; keep it private: it has hidden seeds."""
    content = {
        "format": FORMAT,
        "lab": scores.lab,
        "max_score": scores.max_score,
        "submissions": [_submission(scores, result) for result in scores.results],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _submission(scores: Scores, result: Result) -> dict[str, Any]:
    entry = scores.book.entries.get(result.student, Entry())
    by_hand = {name: cell.points for name, cell in entry.cells.items() if cell.by_hand}
    final = asdict(scores.book.final(result)) | {"by_hand": by_hand}
    return asdict(result) | {"versions": dict(result.versions), "final": final}


FORMATS: dict[str, tuple[str, Callable[[Scores], str]]] = {
    "csv": ("scores.csv", for_spreadsheet),
    "canvas": ("canvas.csv", for_canvas),
    "moodle": ("moodle.csv", for_moodle),
    "json": ("scores.json", as_json),
}
