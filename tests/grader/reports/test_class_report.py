"""The class report on made-up classes: its numbers, and that it can be read at any size."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from grader.course import Course
from grader.gradebook.final_scores import Book, BookCell, Entry
from grader.reports.class_report import (
    MAX_FAILURES,
    MAX_TO_SEE,
    ROWS_A_BLOCK,
    ROWS_SHOWN,
    render,
    write,
)
from grader.results import Status, write_result

from .made_up_class import (
    LAB,
    a_class,
    attempt,
    body,
    cell,
    invalid,
    rows,
    section,
    submission,
)  # fmt: skip


@pytest.mark.parametrize("size", [1, 6, 1000])
def test_a_report_of_any_size_can_be_read(size: int) -> None:
    html = render(LAB, a_class(size))
    assert 3 <= body(html).count('<img src="data:image/png;base64,') <= 4
    assert len(re.sub('base64,[^"]*', "", html)) < 400_000
    for sign in ("<script", "<svg", "style=", "http:", "https:", " onclick"):
        assert sign not in body(html)
    everybody = section(html, "All submissions")
    assert len(rows(everybody)) == size
    assert everybody.count("<details>") == (0 if size <= ROWS_SHOWN else size // ROWS_A_BLOCK)
    assert len(rows(section(html, "Common failures"))) <= MAX_FAILURES
    assert len(rows(section(html, "Returned, or to be looked at"))) <= MAX_TO_SEE


def test_a_class_of_invalid_submissions_has_a_report() -> None:
    html = render(LAB, [invalid(f"s{n}") for n in range(MAX_TO_SEE + 1)])
    assert f"{MAX_TO_SEE + 1} submissions, {MAX_TO_SEE + 1} of them invalid." in html
    assert "<img" not in html
    assert f"The first {MAX_TO_SEE} of {MAX_TO_SEE + 1} submissions" in html


def test_whether_a_score_is_its_last_word_is_said() -> None:
    done = BookCell(points=1.0, max_score=2.0, by_hand=True, waiting=False)
    book = Book(
        entries={
            "ada": Entry(cells={"essay": done}, late_penalty=0.25),
            "ben": Entry(cells={"essay": replace(done, waiting=True)}),
        },
        excused=frozenset({"cem"}),
    )
    results = [submission(name, *attempt("delta")) for name in ("ada", "ben", "cem")]
    listed = rows(section(render(LAB, [*results, invalid("dot")], book), "All submissions"))
    assert [row[2:5] for row in listed] == [
        ["4 / 16", "0.75 / 2", ""],
        ["4 / 16", "1 / 2", "open"],
        ["4 / 16", "4 / 16", "excused"],
        ["0 / 16", "—", ""],
    ]


def test_what_an_instructor_has_to_see_stands_apart() -> None:
    forged = cell("delta", fails="no", status=Status.TAMPER, detail="wrote 9 bytes; last: 'x'")
    results = [
        submission("ada", *attempt("delta")),
        submission("mal", forged, notes=("Two notebooks.",)),
        invalid("zoe", "it is empty"),
    ]
    html = render(LAB, results, refused=[("bob.zip", "it is encrypted")])
    assert rows(section(html, "Returned, or to be looked at")) == [
        ["mal", "TAMPER", "delta: TAMPER", "check_delta: wrote 9 bytes; last: 'x' Two notebooks."],
        ["zoe", "INVALID", "it is empty", ""],
    ]
    assert rows(section(html, "Refused when collecting")) == [["bob.zip", "it is encrypted"]]
    statuses = [row[:2] for row in rows(section(html, "Statuses"))]
    assert statuses == [["OK", "1"], ["TAMPER", "1"], ["INVALID", "1"]]


def test_markup_in_names_and_messages_stays_text() -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    results = [
        submission(evil, *attempt("delta", evil), notes=(evil,)),
        invalid(evil, evil),
    ]
    html = render(evil, results, refused=[(evil, evil)], unreadable={evil: evil})
    assert "<script" not in html
    assert "<img src=x" not in html
    assert html.count("&lt;script&gt;") > 10


def test_it_is_written_whole_with_what_collecting_refused(tmp_path: Path) -> None:
    course = Course(root=tmp_path)
    with pytest.raises(ValueError, match=f"{LAB} has no results yet: run `grader autograde {LAB}`"):
        write(course, LAB)
    write_result(course.result(LAB, "ada"), submission("ada", *attempt("delta")))
    folder = course.reports(LAB) / "collected"
    folder.mkdir()
    refused = {"student": "", "source": "bob.zip", "state": "refused", "refused": []}
    refused |= {"why": "it is encrypted"}
    (folder / "2026-01.json").write_text(json.dumps({"submissions": [refused]}))
    html = write(course, LAB).read_text(encoding="utf-8")
    assert rows(section(html, "Refused when collecting")) == [["bob.zip", "it is encrypted"]]
    assert [path.name for path in course.reports(LAB).glob("class*")] == ["class.html"]


def test_equal_classes_have_equal_reports() -> None:
    assert render(LAB, a_class(6)) == render(LAB, a_class(6))
