"""Scores for other systems: CSV for spreadsheets, Canvas and Moodle, and JSON with everything.

The score is the final one: a person's points where they gave any, less the late penalty.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from grader.course import Course
from grader.gradebook.final_scores import Book, Entry, Final, read_book
from grader.reports.class_list import Person, read_class_list
from grader.reports.spreadsheet import BYTE_ORDER_MARK, Cell, as_csv
from grader.results import Result, Status, read_results

FORMAT = 1
SCHEMA = Path(__file__).with_name("scores.schema.json")
LMS_DECIMALS = 2
EXCUSED = "EX"  # Canvas's word


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """A lab's results with the scores that count.

    Attributes:
        results: In the students' order.
        book: What the gradebook and the policy say.
        people: The roster by id; empty without one.
        column: What the platform calls the assignment.
    """

    lab: str
    results: Sequence[Result]
    book: Book = field(default_factory=Book)
    people: Mapping[str, Person] = field(default_factory=dict)
    column: str = ""

    @property
    def title(self) -> str:
        return self.column or self.lab

    @property
    def max_score(self) -> float:
        return max(self.book.final(result).max_score for result in self.results)

    def everybody(self) -> list[tuple[Person, Result | None]]:
        """Who has a score, is in the roster or excused, in the order of their ids."""
        by_id = {result.student: result for result in self.results}
        ids = sorted({*self._scored(), *self.people, *self.book.excused})
        return [(self.people.get(i, Person(id=i)), by_id.get(i)) for i in ids]

    def unlisted(self) -> list[str]:
        """Students with a score who are not in the roster, if there is one."""
        return [name for name in self._scored() if self.people and name not in self.people]

    def _scored(self) -> list[str]:
        return [r.student for r in self.results if self.book.final(r).score is not None]


def read_scores(
    course: Course, lab: str, *, roster: Path | None = None, column: str = ""
) -> Scores:
    """Read what is to be exported; ValueError if nothing was graded."""
    results = read_results(course.reports(lab) / "results")
    if not results:
        raise ValueError(f"{lab} has no results yet: run `grader autograde {lab}` first")
    return Scores(
        lab=lab,
        results=results,
        book=read_book(course, lab),
        people=read_class_list(roster) if roster else {},
        column=column,
    )


def write(course: Course, scores: Scores, formats: Sequence[str] = ()) -> list[Path]:
    """Write files of some or all `FORMATS` to `reports/<lab>/`; returns their paths."""
    made = {FORMATS[name][0]: FORMATS[name][1](scores) for name in formats or FORMATS}
    paths = []
    for name, text in made.items():
        path = course.reports(scores.lab) / name
        part = path.with_suffix(".part")
        part.write_text(text, encoding="utf-8", newline="")
        os.replace(part, path)
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
    """What Canvas's gradebook imports; an empty score leaves the one that is there.

    It finds a student by ID, or else by an SIS column, or else by name; it finds the assignment
    by the number in parentheses, or else by its title, and makes a new one where it finds none.
    """
    header = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", scores.title]
    rows: list[list[Cell]] = [[*header]]
    rows.append(["    Points Possible", None, None, None, None, scores.max_score])
    for person, result in scores.everybody():
        excused = person.id in scores.book.excused
        score = scores.book.final(result).score if result else None
        who = [person.name or person.id, person.canvas_id, person.sis_id, person.login]
        rows.append([*who, person.section, EXCUSED if excused else score])
    return as_csv(rows, decimals=LMS_DECIMALS)


def for_moodle(scores: Scores) -> str:
    """What Moodle's grade import reads: map a column on a user, the grade, and the feedback."""
    header = ["username", "email", "idnumber", scores.title, f"{scores.title} feedback"]
    rows: list[list[Cell]] = [[*header]]
    for person, result in scores.everybody():
        final = scores.book.final(result) if result else None
        excused = person.id in scores.book.excused
        grade = final.score if final and not excused else None
        said = "Excused." if excused else _summary(result, final) if result and final else ""
        rows.append([person.login, person.email, person.idnumber, grade, said])
    return as_csv(rows, decimals=LMS_DECIMALS)


def _summary(result: Result, final: Final) -> str:
    """One line for the student, made of names, statuses and numbers: Moodle shows it as HTML."""
    if final.score is None:
        return "Returned without a score: see your feedback page."
    worst: dict[str, Status] = {}
    for cell in result.cells:
        if cell.score < cell.points:
            worst.setdefault(cell.check, cell.status)
    said = [f"{final.score:.6g} of {final.max_score:.6g} points."]
    said += [f"{check}: {status.value}." for check, status in worst.items()]
    if final.late_penalty:
        said.append(f"Late: {final.late_penalty:.6g} points less.")
    if final.waiting:
        said.append("Not final yet.")
    return " ".join(said)


def as_json(scores: Scores) -> str:
    """Everything, as `scores.schema.json` describes; for instructors: it has seeds and details."""
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
