"""Stored results and refusals: what can be read is read, the rest is named with the way out."""

import json
from pathlib import Path
from typing import Any

import pytest

from grader.course import Course
from grader.reports.stored_results import MAX_BYTES, read_refusals, read_stored
from grader.results import write_result

from .made_up import LAB, cell, submission

ADA = submission(cell(), notes=("A note.",), versions=(("python", "3.11"),))


@pytest.fixture
def course(tmp_path: Path) -> Course:
    made = Course(root=tmp_path)
    write_result(made.result(LAB, "ada"), ADA)
    return made


def spoiled(course: Course, **fields: Any) -> dict[str, Any]:
    """The stored result of ada with other fields, as ben's."""
    stored = json.loads(course.result(LAB, "ada").read_text(encoding="utf-8"))
    return stored | {"student": "ben"} | fields


def test_what_can_be_read_is_read_as_it_was(course: Course) -> None:
    stored = read_stored(course, LAB)
    assert stored.results == (ADA,)
    assert stored.unreadable == {}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"score": "4"}, "its score is no score"),
        ({"score": True}, "its score is no score"),
        ({"score": float("nan")}, "its score is no score"),
        ({"seconds": 1e300}, "its seconds is no seconds"),
        ({"reason": None}, "its reason is no reason"),
        ({"reason": "\ud800"}, "its reason is no reason"),
        ({"notes": [1]}, "its notes is no notes"),
        ({"versions": {"python": 3}}, "its versions is no versions"),
        ({"status": "GOOD"}, "is not a result of this grader"),
        ({"status": "\x1b[2J" + "x" * 10**6}, "is not a result of this grader"),
        ({"evil\x1b": 1}, "is not a result of this grader"),
        ({"cells": None}, "is not a result of this grader"),
        ({"student": "eve"}, "holds a result of another student or lab"),
        ({"lab": "lab99"}, "holds a result of another student or lab"),
    ],
)
def test_one_with_other_fields_is_left_out(
    course: Course, fields: dict[str, Any], why: str
) -> None:
    text = json.dumps(spoiled(course, **fields))
    course.result(LAB, "ben").write_text(text, encoding="utf-8")
    stored = read_stored(course, LAB)
    assert stored.results == (ADA,)
    (said,) = stored.unreadable.values()
    assert said.startswith("ben.json ")
    assert why in said
    assert said.endswith(f": run `grader autograde {LAB} --student ben`")
    assert said.isprintable()
    assert len(said) < 300


@pytest.mark.parametrize(
    ("name", "value"),
    [("score", "1"), ("seeds", [0.5]), ("seeds", [True]), ("hidden", 1), ("status", "GOOD")],
)
def test_one_with_another_cell_is_left_out(course: Course, name: str, value: object) -> None:
    fields = spoiled(course)
    fields["cells"][0][name] = value
    course.result(LAB, "ben").write_text(json.dumps(fields), encoding="utf-8")
    assert list(read_stored(course, LAB).unreadable) == ["ben"]


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b"7", b"[" * 100_000, b" " * (MAX_BYTES + 1)]
)
def test_a_file_of_anything_is_left_out(course: Course, content: bytes) -> None:
    course.result(LAB, "ben").write_bytes(content)
    stored = read_stored(course, LAB)
    assert (stored.results, list(stored.unreadable)) == ((ADA,), ["ben"])


def test_what_is_no_file_or_no_student_is_named_as_it_can_be_printed(course: Course) -> None:
    results = course.result(LAB, "ada").parent
    (results / "dir.json").mkdir()
    (results / "a\x1bb.json").write_text("{}")
    stored = read_stored(course, LAB)
    assert stored.results == (ADA,)
    assert stored.unreadable["a?b"] == "a?b.json is no student's result: remove it"
    assert "dir.json is no student's result" in stored.unreadable["dir"]


def test_results_come_in_the_students_order(course: Course) -> None:
    for student in ("ada-b", "ada.c"):
        write_result(course.result(LAB, student), submission(cell(), student=student))
    assert [r.student for r in read_stored(course, LAB).results] == ["ada", "ada-b", "ada.c"]


def test_what_collecting_refused_and_has_not_taken_since(course: Course) -> None:
    folder = course.reports(LAB) / "collected"
    folder.mkdir()
    part = {"path": "x.exe", "why": "it is a program"}
    refusal = {"state": "refused", "why": "it is encrypted", "refused": []}
    early = [
        refusal | {"student": "ada", "source": "ada.zip"},
        refusal | {"student": "", "source": "bob.zip"},
        refusal | {"student": "cem", "source": "c.zip", "refused": [part]},
    ]
    late = [{"student": "ada", "source": "a.zip", "state": "collected", "why": "", "refused": []}]
    for name, submissions in (("2026-01", early), ("2026-02", late)):
        (folder / f"{name}.json").write_text(json.dumps({"submissions": submissions}))
    assert read_refusals(course, LAB) == [
        ("bob.zip", "it is encrypted"),
        ("cem", "it is encrypted; it is a program"),
    ]
    for name, content in (("x", "{"), ("y", '{"submissions": [{}]}'), ("z", "[]")):
        (folder / f"{name}.json").write_text(content)
    names = [name for name, _ in read_refusals(course, LAB)]
    assert names == ["bob.zip", "cem", "x.json", "y.json", "z.json"]
