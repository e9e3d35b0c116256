"""Final scores from a gradebook of nbgrader's own: people's points, late penalties, comments."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from nbgrader.plugins.export import CsvExportPlugin

from grader.course import Course
from grader.gradebook.final_scores import Book, BookCell, Entry, read_book
from grader.gradebook.opening import opened
from grader.gradebook.writer import record
from grader.notebooks import read_notebook, write_notebook
from grader.release.generate import generate
from grader.reports import class_report, export, feedback
from grader.results import CellResult, Result, Status, write_result
from grader.transplant import transplant

LAB, OTHER = "essay_lab", "other_lab"
IN_TIME, LATE = "2026-03-01T12:00:00+00:00", "2026-03-02T12:00:00+00:00"
POLICY = """
[late]
share = 0.25
[labs.essay_lab]
due = 2026-03-01T13:00:00+00:00
excused = ["eve"]
"""
EXTENDED = """
[late]
share = 0.25
[labs.essay_lab]
due = 2026-02-28T11:00:00+00:00
[labs.essay_lab.extensions]
ben = 2026-03-01T13:00:00+00:00
"""


def cell(name: str, text: str, kind: str = "code", **facts: Any) -> dict[str, Any]:
    nbgrader = {"grade": False, "solution": False, "task": False, "locked": False}
    nbgrader |= {"grade_id": name, "schema_version": 3, "cell_type": kind} | facts
    made = {"cell_type": kind, "id": name, "metadata": {"nbgrader": nbgrader}, "source": text}
    return made | ({"execution_count": None, "outputs": []} if kind == "code" else {})


SOLVED = [
    cell("area", "### BEGIN SOLUTION\na = 3.14\n### END SOLUTION", solution=True),
    cell("check_area", "assert a > 3", grade=True, locked=True, points=2),
    cell("essay", "Because.", "markdown", grade=True, solution=True, points=3),
    cell("task", "Measure something.", "markdown", task=True, locked=True, points=5),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Course:
    """Two labs in a gradebook without submissions."""
    course = Course(root=tmp_path_factory.mktemp("course"))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    facts = {"metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    for lab in (LAB, OTHER):
        write_notebook(course.source(lab), {"cells": SOLVED, **facts})
        generate(course, lab, course.root / "labs")
    return course


@pytest.fixture
def course(made: Course, tmp_path: Path) -> Course:
    own = Course(root=tmp_path)
    own.gradebook.write_bytes(made.gradebook.read_bytes())
    for lab in (LAB, OTHER):
        write_notebook(own.release(lab), read_notebook(made.release(lab)))
        write_notebook(own.source(lab), read_notebook(made.source(lab)))
    return own


def result(student: str = "ada", *, received: str = IN_TIME, **more: Any) -> Result:
    area = CellResult(
        cell="check_area", check="area", hidden=False, points=2.0, score=2.0, status=Status.OK,
        message="", seeds=(1,), seconds=0.0,
    )  # fmt: skip
    fields: dict[str, Any] = {
        "student": student, "lab": LAB, "status": Status.OK, "reason": "", "score": 2.0,
        "max_score": 2.0, "tier": "bubblewrap", "sha256": "", "received": received,
        "seconds": 0.0, "cells": (area,),
    }  # fmt: skip
    return Result(**fields | more)


def hand_in(course: Course, results: Sequence[Result]) -> None:
    release = read_notebook(course.release(LAB))
    mine = read_notebook(course.release(LAB))
    for one in mine["cells"]:
        one["source"] = "It is so." if one["id"] == "essay" else one["source"]
    with opened(course) as gradebook:
        for one in results:
            record(gradebook, one, transplant(release, mine))


def by_hand(course: Course, student: str, name: str, comment: str = "", **fields: float) -> None:
    """What a person enters in formgrader."""
    with opened(course) as gradebook:
        grade = gradebook.find_grade(name, LAB, LAB, student)
        for key, value in fields.items():
            setattr(grade, key, value)
        grade.needs_manual_grade = False
        if comment:
            gradebook.find_comment(name, LAB, LAB, student).manual_comment = comment
        gradebook.db.commit()


def test_without_a_gradebook_the_checks_points_count(tmp_path: Path) -> None:
    book = read_book(Course(root=tmp_path), LAB)
    assert book == Book()
    final = book.final(result())
    assert (final.score, final.max_score, final.auto_score, final.waiting) == (2.0, 2.0, 2.0, ())
    refused = book.final(result(status=Status.INVALID, score=0.0, cells=()))
    assert (refused.score, refused.auto_score, refused.max_score) == (None, None, 2.0)
    assert list(tmp_path.iterdir()) == []


def test_what_a_person_has_to_look_at_is_waiting(course: Course) -> None:
    hand_in(course, [result()])
    final = read_book(course, LAB).final(result())
    assert (final.score, final.max_score, final.waiting) == (2.0, 10.0, ("essay", "task"))


def test_a_person_s_points_replace_the_checks_and_extra_credit_adds(course: Course) -> None:
    hand_in(course, [result("ada"), result("ben")])
    by_hand(course, "ada", "check_area", manual_score=0.5)
    by_hand(course, "ada", "essay", manual_score=2.5, extra_credit=0.25, comment="Say why.")
    by_hand(course, "ada", "task", manual_score=0.0)
    book = read_book(course, LAB)
    ada, ben = book.entries["ada"], book.entries["ben"]
    assert book.final(result("ada")).score == 3.25
    assert book.final(result("ada")).waiting == ()
    assert book.final(result("ada")).auto_score == 2.0
    assert {name: (c.points, c.max_score, c.by_hand) for name, c in ada.cells.items()} == {
        "check_area": (0.5, 2.0, True), "essay": (2.75, 3.0, True), "task": (0.0, 5.0, True),
    }  # fmt: skip
    assert ada.comments["essay"] == "Say why."
    assert not ben.cells["check_area"].by_hand
    assert "essay" not in ben.comments


def test_scores_are_those_of_nbgrader(course: Course) -> None:
    hand_in(course, [result("ada"), result("ben")])
    by_hand(course, "ada", "essay", manual_score=2.5, extra_credit=0.25)
    by_hand(course, "ben", "check_area", manual_score=-1.0)
    book = read_book(course, LAB)
    with opened(course) as gradebook:
        for student in ("ada", "ben"):
            submission = gradebook.find_submission(LAB, student)
            final = book.final(result(student))
            assert sum(c.points for c in book.entries[student].cells.values()) == submission.score
            assert final.max_score == submission.max_score


def test_a_penalty_is_brought_up_to_date_and_never_takes_more_than_there_is(course: Course) -> None:
    hand_in(course, [result("ada"), result("ben", received=LATE), result("eve", received=LATE)])
    (course.root / "policy.toml").write_text(POLICY)
    assert read_book(course, LAB).final(result("ben")).score == 1.5
    by_hand(course, "ben", "essay", manual_score=2.0)
    book = read_book(course, LAB)
    ben = book.final(result("ben"))
    assert (ben.late_penalty, ben.score, ben.excused) == (1.0, 3.0, False)
    assert book.final(result("ada")).late_penalty == 0.0
    eve = book.final(result("eve"))
    assert (eve.late_penalty, eve.score, eve.excused) == (0.0, 2.0, True)
    more = Book(entries={"ada": Entry(late_penalty=5.0)})
    assert more.final(result("ada")).score == 0.0


def test_another_lab_and_a_lab_that_the_gradebook_lacks_have_nothing(course: Course) -> None:
    hand_in(course, [result("ada"), result("eve")])
    (course.root / "policy.toml").write_text(POLICY)
    assert read_book(course, OTHER).entries == {}
    assert read_book(course, "lab_of_nobody").entries == {}


def test_what_the_machine_could_not_check_is_waiting() -> None:
    cell = CellResult(
        cell="check_gpu", check="gpu", hidden=False, points=2.0, score=0.0,
        status=Status.BLOCKED, message="needs cuda", seeds=(), seconds=0.0,
    )  # fmt: skip
    blocked = result(cells=(cell,))
    recorded = BookCell(points=0.0, max_score=2.0, by_hand=False, waiting=False)
    for entries in ({}, {"ada": Entry(cells={"check_gpu": recorded})}):
        assert Book(entries=entries).final(blocked).waiting == ("check_gpu",)
    given = BookCell(points=1.0, max_score=2.0, by_hand=True, waiting=False)
    assert Book(entries={"ada": Entry(cells={"check_gpu": given})}).final(blocked).waiting == ()


def nbgrader_s_own(course: Course, student: str) -> tuple[float, float]:
    """Score and maximum as `nbgrader export` writes them."""
    path = course.root / "nbgrader.csv"
    with opened(course) as gradebook:
        CsvExportPlugin(to=str(path)).export(gradebook)
    rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
    (row,) = (r for r in rows if r["student_id"] == student and r["assignment"] == LAB)
    return float(row["score"]), float(row["max_score"])


def test_five_places_say_the_same_of_late_work_with_an_extension_and_people_s_points(
    course: Course,
) -> None:
    late = result("ben", received=LATE)
    hand_in(course, [late])
    by_hand(course, "ben", "check_area", manual_score=1.5)
    by_hand(course, "ben", "essay", manual_score=2.5, extra_credit=0.25, comment="Say why.")
    by_hand(course, "ben", "task", manual_score=4.0)
    (course.root / "policy.toml").write_text(EXTENDED)
    write_result(course.result(LAB, "ben"), late)

    feedback.write(course, LAB)
    class_report.write(course, LAB)
    export.write(course, export.read_scores(course, LAB))

    earned = 1.5 + 2.5 + 0.25 + 4.0
    score = earned - 0.25 * earned
    final = json.loads((course.reports(LAB) / "scores.json").read_text())["submissions"][0]["final"]
    assert (final["score"], final["max_score"], final["late_penalty"]) == (score, 10, earned / 4)
    text = (course.reports(LAB) / "scores.csv").read_text(encoding="utf-8-sig")
    (row,) = csv.DictReader(io.StringIO(text))
    assert [float(row[key]) for key in ("score", "max_score", "late_penalty")] == [
        score, 10, pytest.approx(earned / 4, abs=1e-6),
    ]  # fmt: skip
    assert nbgrader_s_own(course, "ben") == (pytest.approx(score, abs=1e-6), 10)
    page = course.feedback(LAB, "ben").read_text(encoding="utf-8")
    assert f'<p class="score">{score:.2f} of 10 points</p>' in page
    assert f"{earned / 4:.2f} points were taken off" in page
    report = (course.reports(LAB) / "class.html").read_text(encoding="utf-8")
    assert f'<td class="number">{score:.2f} / 10</td>' in report
    for name in ("canvas.csv", "moodle.csv"):
        assert f",{score:.2f}" in (course.reports(LAB) / name).read_text(encoding="utf-8")
