"""CSV: no text is a formula, every number stays one."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grader.reports.spreadsheet import as_csv, neutral, number

from .formulas import FORMULAS, is_formula


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_neutralised_where_a_cell_may_begin(text: str) -> None:
    for whole in (text, f"x;{text}", f"x; {text}"):
        (line,) = read(as_csv([[whole]]))
        assert not any(is_formula(part) for part in line[0].split(";"))
        assert "'" in line[0]
        assert "\n" not in line[0]


@pytest.mark.parametrize(
    "text", ["ada", "-", "a=b", "3-4", "x; y", "it's", "", "é", "(=1)", "a@b.org"]
)
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
