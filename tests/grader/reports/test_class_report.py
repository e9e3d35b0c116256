"""The class report on made-up classes: its numbers, and that it can be read at any size."""

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from grader.course import Course
from grader.reports.class_report import (
    MAX_FAILURES,
    MAX_TO_SEE,
    ROWS_A_BLOCK,
    ROWS_SHOWN,
    render,
    write,
)
from grader.reports.item_analysis import LEAST_SUBMISSIONS, failures, items, point_biserial
from grader.results import CellResult, Result, Status, summarise, write_result

LAB = "lab03_lora"
POINTS = {"delta": 4, "linear": 7, "train": 5}
WRONG = "{name}: {n} of 99 values differ, by up to {by} (allowed: rounding). Hint: divide."


def cell(check: str, *, hidden: bool = False, fails: str = "", **more: object) -> CellResult:
    points = POINTS[check] / 2
    status = more.pop("status", Status.WRONG if fails else Status.OK)
    fields = {
        "cell": f"{'hidden' if hidden else 'check'}_{check}", "check": check, "hidden": hidden,
        "points": points, "score": 0.0 if fails else points, "status": status, "message": fails,
        "seeds": (1,), "seconds": 0.5,
    }  # fmt: skip
    return CellResult(**fields | more)


def submission(student: str, *cells: CellResult, **more: object) -> Result:
    status, reason = summarise(cells)
    fields = {
        "student": student, "lab": LAB, "status": status, "reason": reason,
        "score": sum(c.score for c in cells), "max_score": 16.0, "tier": "bubblewrap",
        "sha256": "", "received": "2026-03-01T12:00:00+00:00", "seconds": 1.5, "cells": cells,
    }  # fmt: skip
    return Result(**fields | more)


def invalid(student: str, reason: str = "it is empty") -> Result:
    return submission(student, status=Status.INVALID, reason=reason)


def attempt(check: str, public: str = "", hidden: str | None = None) -> tuple[CellResult, ...]:
    """An exercise's two cells, with the messages they fail with."""
    both = public if hidden is None else hidden
    return cell(check, fails=public), cell(check, hidden=True, fails=both)


def a_class(size: int) -> list[Result]:
    """Submissions of different ability, a few of them invalid, slow or tampered with."""
    random = Random(size)
    results = []
    for number in range(size):
        if number % 50 == 7:
            results.append(invalid(f"student-{number:04}"))
            continue
        ability, cells = random.gauss(0, 1), []
        for hardness, name in enumerate(POINTS):
            message = WRONG.format(name=name, n=random.randint(1, 99), by=random.random())
            fails = message if random.gauss(ability, 1) < hardness - 1 else ""
            status = Status.TIMEOUT if fails and random.random() < 0.1 else None
            for one in attempt(name, fails):
                cells.append(replace(one, status=status) if status else one)
        seconds = random.lognormvariate(0, 0.5)
        results.append(submission(f"student-{number:04}", *cells, seconds=seconds))
    return results


def body(html: str) -> str:
    return html.partition("<body>")[2]


def section(html: str, heading: str) -> str:
    return html.partition(f"<h2>{heading}</h2>")[2].partition("<h2>")[0]


def rows(html: str) -> list[list[str]]:
    """The cells of a section's tables as text."""
    lines = re.findall("<tr>(.*?)</tr>", html)
    cells = [re.findall("<td.*?>(.*?)</td>", line) for line in lines]
    return [[re.sub("<.*?>", "", one) for one in line] for line in cells if line]


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


def test_pass_rates_and_times_of_an_exercise() -> None:
    results = [
        submission("ada", *attempt("delta")),
        submission("ben", *attempt("delta", "", "delta: wrong")),
        submission("cem", *attempt("delta", "delta: wrong")),
        submission("dot", *(replace(c, status=Status.TIMEOUT) for c in attempt("delta", "slow"))),
        submission("eli", *(replace(c, status=Status.BLOCKED) for c in attempt("delta", "no GPU"))),
    ]
    (item,) = items(results)
    assert (item.checked, item.solved, item.public_rate, item.hidden_rate) == (4, 1, 0.5, 0.25)
    assert (item.points, item.timeouts, item.median_seconds) == (4, 1, 1.0)
    (row,) = rows(section(render(LAB, results), "Exercises"))
    assert row[:5] == ["delta", "4", "1 of 4", "50%", "25%"]
    assert row[6:] == ["1.00 s", "1"]


SOLVED = st.lists(st.tuples(st.booleans(), st.integers(0, 40)), min_size=LEAST_SUBMISSIONS)


@given(SOLVED)
def test_discrimination_is_scipy_s_point_biserial(pairs: list[tuple[bool, int]]) -> None:
    solved, rest = [right for right, _ in pairs], [points / 4 for _, points in pairs]
    ours = point_biserial(solved, rest)
    if len(set(solved)) == 1 or len(set(rest)) == 1:
        assert ours is None
    else:
        assert ours == pytest.approx(stats.pointbiserialr(solved, rest).statistic, abs=1e-9)


def test_discrimination_is_corrected_for_the_exercise_itself() -> None:
    results = a_class(200)
    scored = [result for result in results if result.cells]
    for item in items(scored):
        own = [sum(c.score for c in r.cells if c.check == item.check) for r in scored]
        solved = [points == POINTS[item.check] for points in own]
        rest = [r.score - points for r, points in zip(scored, own, strict=True)]
        expected = stats.pointbiserialr(solved, rest).statistic
        assert item.discrimination == pytest.approx(expected)
        whole = stats.pointbiserialr(solved, [r.score for r in scored]).statistic
        assert abs(item.discrimination - whole) > 0.01


def test_where_discrimination_is_undefined_nothing_is_said() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert point_biserial([True, True, True], [1.0, 2.0, 3.0]) is None
        assert point_biserial([True, False, True], [2.0, 2.0, 2.0]) is None
        assert point_biserial([True, False], [1.0, 2.0]) is None
        assert point_biserial([], []) is None
        third = 1 / 3
        assert point_biserial([True, False, True], [0.1 + 0.2, 0.3, 0.3]) is None
        assert point_biserial([True, False, False], [third, 0.0, 0.0]) == pytest.approx(1.0)
    html = render(LAB, a_class(1))
    assert {row[5] for row in rows(section(html, "Exercises"))} == {"—"}
    assert "mostly chance" in html
    assert "nan" not in body(re.sub('base64,[^"]*', "", html))


def test_like_failures_are_counted_together_and_once_a_student() -> None:
    messages = [WRONG.format(name="delta", n=n, by=n / 7) for n in (3, 5, 8)]
    results = [submission(f"s{i}", *attempt("delta", m)) for i, m in enumerate(messages)]
    results.append(submission("late", *attempt("delta", "", messages[0])))
    results.append(submission("other", *attempt("delta", "delta: expected 3 entries, got 4.")))
    first, second = failures(results)
    assert first.students == ("s0", "s1", "s2", "late")
    assert (first.kind, first.example) == (
        "delta: some values differ (allowed: rounding)",
        messages[0],
    )
    assert second.students == ("other",)
    listed = rows(section(render(LAB, results), "Common failures"))
    assert [row[:3] for row in listed] == [["4", "delta", "WRONG"], ["1", "delta", "WRONG"]]


def test_a_time_out_is_another_failure_than_a_wrong_value() -> None:
    slow = [replace(c, status=Status.TIMEOUT) for c in attempt("delta", "same")]
    results = [submission("ada", *slow), submission("ben", *attempt("delta", "same"))]
    assert [f.status for f in failures(results)] == [Status.TIMEOUT, Status.WRONG]


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
    refusal = {"refused": [{"path": "", "why": "it is encrypted"}], "state": "refused"}
    folder = course.reports(LAB) / "collected"
    folder.mkdir()
    early = [
        refusal | {"student": "ada", "source": "ada.zip"},
        refusal | {"student": "", "source": "bob.zip"},
    ]
    late = [{"student": "ada", "source": "ada.zip", "state": "collected", "refused": []}]
    for name, submissions in (("2026-01", early), ("2026-02", late)):
        (folder / f"{name}.json").write_text(json.dumps({"submissions": submissions}))
    html = write(course, LAB).read_text(encoding="utf-8")
    assert rows(section(html, "Refused when collecting")) == [["bob.zip", "it is encrypted"]]
    assert [path.name for path in course.reports(LAB).glob("class*")] == ["class.html"]


def test_equal_classes_have_equal_reports() -> None:
    assert render(LAB, a_class(6)) == render(LAB, a_class(6))
