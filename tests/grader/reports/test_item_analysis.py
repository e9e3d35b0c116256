"""Pass rates, discrimination, times and common failures of made-up classes."""

import re
import warnings
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from grader.reports.class_report import render
from grader.reports.item_analysis import LEAST_SUBMISSIONS, failures, items, point_biserial
from grader.results import Status

from .made_up_class import (
    LAB,
    POINTS,
    WRONG,
    a_class,
    attempt,
    blocked,
    body,
    rows,
    section,
    submission,
)  # fmt: skip


def test_pass_rates_and_times_of_an_exercise() -> None:
    results = [
        submission("ada", *attempt("delta")),
        submission("ben", *attempt("delta", "", "delta: wrong")),
        submission("cem", *attempt("delta", "delta: wrong")),
        submission("dot", *(replace(c, status=Status.TIMEOUT) for c in attempt("delta", "slow"))),
        blocked("eli"), blocked("fay"), blocked("gus"), blocked("hal"), blocked("ida"),
    ]  # fmt: skip
    (item,) = items(results)
    assert (item.checked, item.solved, item.public_rate, item.hidden_rate) == (4, 1, 0.5, 0.25)
    assert (item.points, item.timeouts, item.median_seconds) == (4, 1, 1.0)
    (row,) = rows(section(render(LAB, results), "Exercises"))
    assert row[:5] == ["delta", "4", "1 of 4", "50%", "25%"]
    assert row[6:] == ["1.00 s", "1"]


def test_an_exercise_that_nobody_s_was_checked_in_has_no_rates() -> None:
    results = [blocked("ada"), blocked("ben")]
    (item,) = items(results)
    assert (item.checked, item.median_seconds, item.public_rate) == (0, 0.0, None)
    html = render(LAB, results)
    assert html.count("<img") == 2
    (row,) = rows(section(html, "Exercises"))
    assert row == ["delta", "4", "0 of 0", "—", "—", "—", "0.00 s", "0"]


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
