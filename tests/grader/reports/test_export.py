"""Exports: what spreadsheets, Canvas, Moodle and programs read, and no formula in any of it."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from grader.cli.main import main
from grader.course import Course
from grader.gradebook.final_scores import Book, BookCell, Entry
from grader.reports.class_list import Person
from grader.reports.export import (
    FORMATS,
    SCHEMA,
    Scores,
    as_json,
    for_canvas,
    for_moodle,
    for_spreadsheet,
)
from grader.results import CellResult, Result, Status, summarise, write_result

from .formulas import FORMULAS, is_formula

LAB = "lab03_lora"
SCHEMA_OF_SCORES = json.loads(SCHEMA.read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA_OF_SCORES)


def cell(check: str, score: float, *, points: float = 2.0, hidden: bool = False) -> CellResult:
    status = Status.OK if score == points else Status.WRONG
    return CellResult(
        cell=f"{'hidden' if hidden else 'check'}_{check}", check=check, hidden=hidden,
        points=points, score=score, status=status, message="" if score else f"{check}: wrong.",
        seeds=(2**40,), seconds=0.25, detail="" if score else "seed 1",
    )  # fmt: skip


def submission(student: str, *cells: CellResult, **more: Any) -> Result:
    status, reason = summarise(cells)
    fields: dict[str, Any] = {
        "student": student, "lab": LAB, "status": status, "reason": reason,
        "score": sum(c.score for c in cells), "max_score": 4.0, "tier": "bubblewrap",
        "sha256": "0" * 64, "received": "2026-03-01T12:00:00+00:00", "seconds": 1.5,
        "cells": cells, "versions": (("python", "3.11"),),
    }  # fmt: skip
    return Result(**fields | more)


ADA = submission("ada", cell("delta", 2.0), cell("linear", 2.0))
BEN = submission("ben", cell("delta", 2.0), cell("linear", 0.0))
ZOE = submission("zoe", status=Status.INVALID, reason="it is empty", sha256="")


def book_cell(points: float, most: float = 2.0, **more: bool) -> BookCell:
    return BookCell(points=points, max_score=most, **{"by_hand": False, "waiting": False} | more)


BOOK = Book(
    entries={
        "ben": Entry(
            cells={
                "check_delta": book_cell(-1.0, by_hand=True),
                "check_linear": book_cell(0.0),
                "essay": book_cell(4.0, 6.0, by_hand=True),
                "plot": book_cell(0.0, 4.0, waiting=True),
            },
            late_penalty=1 / 3,
        )
    },
    excused=frozenset({"ada", "eve"}),
)
PEOPLE = {
    "ben": Person(
        id="ben", name="Ölmez, Ben", email="ben@example.org", canvas_id="77", sis_id="S-9",
        username="bo1", idnumber="123", section="Tutorial 2",
    ),
    "new": Person(id="new"),
}  # fmt: skip


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def test_the_spreadsheet_has_final_scores_and_where_they_come_from() -> None:
    text = for_spreadsheet(Scores(lab=LAB, results=(ADA, BEN, ZOE), book=BOOK))
    assert text.startswith("\ufeffstudent,lab,status,score,max_score,delta,linear,auto_score,")
    rows = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))
    assert [row["score"] for row in rows] == ["4", "2.666667", ""]
    ben, zoe = rows[1], rows[2]
    told = ("max_score", "delta", "linear", "auto_score", "late_penalty", "waiting", "excused")
    assert [ben[key] for key in told] == ["14", "-1", "0", "2", "0.333333", "plot", ""]
    assert [zoe[key] for key in told] == ["4", "", "", "", "0", "", ""]
    assert (rows[0]["excused"], zoe["reason"]) == ("yes", "it is empty")


def test_canvas_gets_its_columns_and_rows() -> None:
    scores = Scores(
        lab=LAB, results=(ADA, BEN, ZOE), book=BOOK, people=PEOPLE, column="Lab 3 (4711)"
    )
    assert read(for_canvas(scores)) == [
        ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "Lab 3 (4711)"],
        ["    Points Possible", "", "", "", "", "14"],
        ["ada", "", "", "ada", "", "EX"],
        ["Ölmez, Ben", "77", "S-9", "bo1", "Tutorial 2", "2.67"],
        ["eve", "", "", "eve", "", "EX"],
    ]


def test_moodle_gets_its_columns_and_rows() -> None:
    scores = Scores(lab=LAB, results=(ADA, BEN, ZOE), book=BOOK, people=PEOPLE)
    said = "2.67 of 14 points. linear: WRONG. Late: 0.33 points less. Not final yet."
    assert read(for_moodle(scores)) == [
        ["username", LAB, f"{LAB} feedback"],
        ["ada", "-", "Excused."],
        ["bo1", "2.67", said],
        ["eve", "-", "Excused."],
    ]


def test_moodle_gets_a_column_to_find_users_by_only_if_everybody_has_it() -> None:
    people = {n: Person(id=n, email=f"{n}@x.org", idnumber=n[:1]) for n in ("ada", "ben", "zoe")}
    scores = Scores(lab=LAB, results=(ADA, BEN, ZOE), people=people)
    rows = read(for_moodle(scores))
    assert rows[0][:3] == ["username", "email", "idnumber"]
    assert rows[1][:4] == ["ada", "ada@x.org", "a", "4"]
    assert len(rows) == 3
    people["ben"] = Person(id="ben", idnumber="b")
    assert read(for_moodle(scores))[0][:3] == ["username", "idnumber", LAB]


def test_nobody_without_a_score_is_entered_where_an_empty_cell_would_remove_one() -> None:
    people = {name: Person(id=name) for name in ("ada", "new", "zoe")}
    scores = Scores(lab=LAB, results=(ADA, BEN, ZOE), people=people)
    assert [row[0] for row in read(for_canvas(scores))[2:]] == ["ada", "ben"]
    assert [row[0] for row in read(for_moodle(scores))[1:]] == ["ada", "ben"]
    assert (scores.left_out(), scores.unlisted()) == (["new", "zoe"], ["ben"])
    assert Scores(lab=LAB, results=(ADA, BEN, ZOE)).left_out() == []


def test_no_cell_of_any_file_is_a_formula() -> None:
    for evil in FORMULAS:
        person = Person(id="ada", name=evil, email=evil, canvas_id=evil, sis_id=evil, section=evil)
        bad = submission("ada", cell(evil, 0.0), reason=evil)
        scores = Scores(lab=evil, results=(bad,), people={"ada": person}, column=evil)
        for made in (for_spreadsheet(scores), for_canvas(scores), for_moodle(scores)):
            cells = [text for row in read(made.removeprefix("\ufeff")) for text in row]
            parts = [part for text in cells for part in text.split(";")]
            assert [part for part in parts if is_formula(part)] == []


def test_the_json_is_as_its_schema_says() -> None:
    VALIDATOR.check_schema(SCHEMA_OF_SCORES)
    made = json.loads(as_json(Scores(lab=LAB, results=(ADA, BEN, ZOE), book=BOOK)))
    VALIDATOR.validate(made)
    ben = made["submissions"][1]
    assert ben["final"] == {
        "score": pytest.approx(8 / 3), "max_score": 14, "auto_score": 2.0,
        "late_penalty": pytest.approx(1 / 3), "waiting": ["plot"], "excused": False,
        "by_hand": {"check_delta": -1.0, "essay": 4.0},
    }  # fmt: skip
    assert ben["cells"][1] | {"seeds": 0} == {
        "cell": "check_linear", "check": "linear", "hidden": False, "points": 2.0, "score": 0.0,
        "status": "WRONG", "message": "linear: wrong.", "seeds": 0, "seconds": 0.25,
        "detail": "seed 1",
    }  # fmt: skip
    assert made["submissions"][2]["final"]["score"] is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), 2),
        (("submissions", 0, "status"), "GOOD"),
        (("submissions", 0, "score"), "4"),
        (("submissions", 0, "sha256"), "xyz"),
        (("submissions", 0, "more"), 1),
        (("submissions", 0, "final", "score"), "4"),
        (("submissions", 0, "final", "late_penalty"), -1),
        (("submissions", 0, "cells", 0, "seeds"), [0.5]),
        (("submissions", 0, "cells", 0, "more"), 1),
    ],
)
def test_the_schema_refuses_what_is_different(path: Sequence[str | int], value: Any) -> None:
    made = json.loads(as_json(Scores(lab=LAB, results=(BEN,), book=BOOK)))
    place = made
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert not VALIDATOR.is_valid(made)


def test_the_schema_knows_every_status() -> None:
    assert SCHEMA_OF_SCORES["$defs"]["status"]["enum"] == [status.value for status in Status]


@pytest.fixture
def course(tmp_path: Path) -> Course:
    made = Course(root=tmp_path)
    (tmp_path / "nbgrader_config.py").touch()
    for result in (ADA, BEN, ZOE):
        write_result(made.result(LAB, result.student), result)
    return made


def test_the_command_writes_all_or_some_formats(
    course: Course, capsys: pytest.CaptureFixture[str]
) -> None:
    roster = course.root / "roster.csv"
    roster.write_text("\ufeffid,name,github\nada,Ada =1,ada-hub\n", encoding="utf-8")
    command = ["--root", str(course.root), "export", LAB]
    assert main([*command, "--format", "canvas", "--roster", str(roster), "--column", "L (1)"]) == 0
    out, err = capsys.readouterr()
    assert out == f"reports/{LAB}/canvas.csv\n"
    assert "1 entered, not in the roster: ben\n" in err
    rows = read((course.reports(LAB) / "canvas.csv").read_text(encoding="utf-8"))
    assert rows[0][-1] == "L (1)"
    assert rows[2] == ["Ada =1", "", "", "ada", "", "4"]
    assert main(command) == 0
    made = {path.name for path in course.reports(LAB).iterdir()}
    assert made == {"results", "scores.csv", "canvas.csv", "moodle.csv", "scores.json"}
    before = {name: (course.reports(LAB) / name).read_bytes() for name, _ in FORMATS.values()}
    assert main(command) == 0
    assert {name: (course.reports(LAB) / name).read_bytes() for name in before} == before


def test_a_result_that_cannot_be_read_costs_no_other_one(
    course: Course, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--root", str(course.root), "export", LAB]
    assert main(command) == 0
    paths = [course.reports(LAB) / name for name, _ in FORMATS.values()]
    whole = [[line for line in p.read_text().splitlines() if "zoe" not in line] for p in paths]
    course.result(LAB, "zoe").write_text("{")
    capsys.readouterr()
    assert main(command) == 2
    assert [p.read_text().splitlines() for p in paths[:3]] == whole[:3]
    made = json.loads(paths[3].read_text(encoding="utf-8"))
    assert [one["student"] for one in made["submissions"]] == ["ada", "ben"]
    out, err = capsys.readouterr()
    assert out.count("\n") == 4
    assert "grader: zoe is in no file: zoe.json is not a result of this grader" in err
    assert f"run `grader autograde {LAB} --student zoe`" in err


def test_help_says_which_file_is_private(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "json has the seeds of hidden inputs: keep it private" in said


def test_without_results_the_way_out_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nbgrader_config.py").touch()
    assert main(["--root", str(tmp_path), "export", LAB]) == 2
    assert f"run `grader autograde {LAB}` first" in capsys.readouterr().err
