"""Marked cells of lectures against an executed copy: what differs, and what may."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MARK = "# NBVAL_CHECK_OUTPUT\n"
spec = importlib.util.spec_from_file_location("check_stored", ROOT / "scripts" / "check_stored.py")
assert spec
assert spec.loader
check_stored = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_stored)


def cell(name: str, source: str, *outputs: dict[str, Any], tags: tuple[str, ...] = ()) -> Any:
    return {
        "id": name,
        "cell_type": "code",
        "metadata": {"tags": list(tags)},
        "source": source,
        "outputs": list(outputs),
    }


def value(text: Any, number: int = 1) -> dict[str, Any]:
    data = {"text/plain": text}
    return {"output_type": "execute_result", "execution_count": number, "data": data}


def stream(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


@pytest.fixture
def compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def compare(stored: list[Any], executed: list[Any] | None) -> tuple[int, str]:
        for place, cells in (("", stored), ("reports/notebooks", executed)):
            path = tmp_path / place / "chapters" / "one" / "01.ipynb"
            path.parent.mkdir(parents=True, exist_ok=True)
            if cells is not None:
                path.write_text(json.dumps({"cells": cells}))
        return check_stored.main(tmp_path), capsys.readouterr().err

    return compare


def test_the_same_values_under_other_numbers_and_in_other_pieces_agree(compare: Any) -> None:
    injected = cell("p", 'SCALE = "smoke"', tags=("injected-parameters",))
    stored = [cell("a", MARK + "x", value(["1\n", "2"])), cell("b", MARK + "y", stream("ab"))]
    now = [cell("a", MARK + "x", value("1\n2", 7))]
    now += [injected, cell("b", MARK + "y", stream("a"), stream("b"))]
    assert compare(stored, now) == (0, "")


def test_cells_without_the_mark_may_differ(compare: Any) -> None:
    same = cell("a", MARK + "x", value("1"))
    assert compare([same, cell("b", "t", value("2"))], [same, cell("b", "t", value("3"))])[0] == 0


@pytest.mark.parametrize(
    "other",
    [
        [value("2")],
        [],
        [value("1"), stream("warning", "stderr")],
        [{"output_type": "error", "ename": "E", "evalue": "x"}],
        [{"output_type": "display_data", "data": {"image/png": "1"}}],
    ],
)
def test_another_output_of_a_marked_cell_is_named(compare: Any, other: list[Any]) -> None:
    code, said = compare([cell("a", MARK + "x", value("1"))], [cell("a", MARK + "x", *other)])
    assert code == 1
    assert "01.ipynb, cell a: stored [('text/plain', '1')], now" in said


@pytest.mark.parametrize(
    ("stored", "executed", "words"),
    [
        ([cell("a", MARK + "x")], None, "not executed yet"),
        ([cell("a", MARK + "x")], [cell("a", MARK + "y")], "changed since"),
        ([cell("a", MARK + "x"), cell("b", "z")], [cell("a", MARK + "x")], "changed since"),
        ([cell("a", "x")], [cell("a", "x")], "marks no cell"),
    ],
)
def test_what_cannot_be_compared_is_a_failure(
    compare: Any, stored: list[Any], executed: list[Any] | None, words: str
) -> None:
    code, said = compare(stored, executed)
    assert (code, words in said) == (1, True)
