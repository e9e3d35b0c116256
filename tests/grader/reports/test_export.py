"""Exports: what spreadsheets, Canvas, Moodle and programs read, and no formula in any of it."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grader.cli.main import main
from grader.course import Course
from grader.gradebook.final_scores import Book, BookCell, Entry
from grader.reports.class_list import Person, read_class_list
from grader.reports.export import (
    FORMATS,
    SCHEMA,
    Scores,
    as_json,
    for_canvas,
    for_moodle,
    for_spreadsheet,
)
from grader.reports.spreadsheet import as_csv, neutral, number
from grader.results import CellResult, Result, Status, summarise, write_result

LAB = "lab03_lora"
SCHEMA_OF_SCORES = json.loads(SCHEMA.read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA_OF_SCORES)
FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "\u00a0=1",
    "\u200b=1",
    "\ufeff=1",
    "\0=1",
    '"=1',
    "'=1",
    ' " =1',
    "“=1",
    "＝1",
    "＋1",
    "－1",
    "＠1",
    "﹦1",
    "\u22121",
    "=cmd|' /C calc'!A0",
    '=HYPERLINK("https://example.org","x")',
]


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


def is_formula(text: str) -> bool:
    """What OWASP says a cell must not begin with, also behind blanks and quotes."""
    return text.lstrip(' \t\r\n\0"\u00a0\u200b\ufeff“”`').startswith(tuple("=+-@＝＋－＠﹦\u2212"))


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_neutralised_where_a_cell_may_begin(text: str) -> None:
    for whole in (text, f"x;{text}", f"x; {text}"):
        (line,) = read(as_csv([[whole]]))
        assert not any(is_formula(part) for part in line[0].split(";"))
        assert "'" in line[0]
        assert "\n" not in line[0]


@pytest.mark.parametrize("text", ["ada", "a=b", "3-4", "x; y", "it's", "", "é", "(=1)", "a@b.org"])
def test_what_is_no_formula_stays_as_it_is(text: str) -> None:
    assert neutral(text) == text


@given(st.lists(st.text() | st.sampled_from(FORMULAS), min_size=1, max_size=5))
def test_no_text_becomes_a_formula_and_every_row_stays_a_line(texts: list[str]) -> None:
    written = as_csv([texts, texts])
    (first, second) = read(written)
    assert first == second
    assert len(first) == len(texts)
    parts = [part for cell_text in first for part in cell_text.split(";")]
    assert not any(is_formula(part) for part in parts)
    assert written.count("\n") == 2


@pytest.mark.parametrize(
    ("value", "shown"),
    [(-1.5, "-1.5"), (-0.0, "0"), (17.0, "17"), (1 / 3, "0.333333"), (1e6, "1000000"), (0, "0")],
)
def test_a_number_stays_a_number(value: float, shown: str) -> None:
    assert number(value) == shown
    assert read(as_csv([["-1.5", value, None]])) == [["'-1.5", shown, ""]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_what_is_no_score_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="is not a score"):
        number(value)


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
        ["new", "", "", "new", "", ""],
    ]


def test_moodle_gets_its_columns_and_rows() -> None:
    rows = read(for_moodle(Scores(lab=LAB, results=(ADA, BEN, ZOE), book=BOOK, people=PEOPLE)))
    assert rows == [
        ["username", "email", "idnumber", LAB, f"{LAB} feedback"],
        ["ada", "", "", "", "Excused."],
        [
            "bo1", "ben@example.org", "123", "2.67",
            "2.66667 of 14 points. linear: WRONG. Late: 0.333333 points less. Not final yet.",
        ],
        ["eve", "", "", "", "Excused."],
        ["new", "", "", "", ""],
    ]  # fmt: skip


def test_who_was_returned_unscored_gets_a_row_only_if_the_roster_has_them() -> None:
    for people, listed in (({}, False), ({"zoe": Person(id="zoe")}, True)):
        scores = Scores(lab=LAB, results=(ADA, ZOE), people=people)
        assert (["zoe", "", "", "zoe", "", ""] in read(for_canvas(scores))) is listed
        assert any(row[0] == "zoe" for row in read(for_moodle(scores))) is listed


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
    assert "1 have a score and are not in the roster: ben" in err
    rows = read((course.reports(LAB) / "canvas.csv").read_text(encoding="utf-8"))
    assert rows[0][-1] == "L (1)"
    assert rows[2] == ["Ada =1", "", "", "ada", "", "4"]
    assert main(command) == 0
    made = {path.name for path in course.reports(LAB).iterdir()}
    assert made == {"results", "scores.csv", "canvas.csv", "moodle.csv", "scores.json"}
    before = {name: (course.reports(LAB) / name).read_bytes() for name, _ in FORMATS.values()}
    assert main(command) == 0
    assert {name: (course.reports(LAB) / name).read_bytes() for name in before} == before


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"name\nada\n", "needs a column `id`; it has name"),
        (b"id\nada\nada\n", "the id 'ada' is there more than once"),
        (b"id\n../x\n", "roster: id '../x' must be"),
        (b"id\n\xff\n", "is not a CSV file in UTF-8"),
        (b"id\n", "needs a row for each student"),
    ],
)
def test_a_broken_roster_is_one_sentence(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "roster.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=why):
        read_class_list(path)


def test_without_results_the_way_out_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nbgrader_config.py").touch()
    assert main(["--root", str(tmp_path), "export", LAB]) == 2
    assert f"run `grader autograde {LAB}` first" in capsys.readouterr().err
