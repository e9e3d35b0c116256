"""The house rules of lectures and labs that a machine can see."""

import ast
import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LECTURES = sorted(ROOT.glob("chapters/*/*.ipynb"))
SOLUTIONS = sorted(ROOT.glob("solutions/*/*.ipynb"))
MOST_LINES, MEDIAN_LINES, WIDTH = 40, 8, 80
FEWEST_WORDS, MOST_WORDS = 1500, 3500

Cell = dict[str, Any]


def cells(path: Path, kind: str) -> list[Cell]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def source(cell: Cell) -> str:
    return "".join(cell["source"])


def name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", LECTURES + SOLUTIONS, ids=name)
def test_one_parameters_cell_sets_the_scale(path: Path) -> None:
    tagged = [c for c in cells(path, "code") if "parameters" in c["metadata"].get("tags", [])]
    assert [source(cell).partition("#")[0].strip() for cell in tagged] == ['SCALE = "cpu"']


@pytest.mark.parametrize("path", LECTURES, ids=name)
def test_code_cells_are_short_and_narrow(path: Path) -> None:
    sources = [source(cell).splitlines() for cell in cells(path, "code")]
    assert statistics.median(map(len, sources)) <= MEDIAN_LINES
    assert max(map(len, sources)) <= MOST_LINES
    wide = [line for lines in sources for line in lines if len(line) > WIDTH]
    assert not wide


@pytest.mark.parametrize("path", LECTURES, ids=name)
def test_prose_is_neither_a_slide_nor_a_book(path: Path) -> None:
    words = sum(len(source(cell).split()) for cell in cells(path, "markdown"))
    assert FEWEST_WORDS <= words <= MOST_WORDS


@pytest.mark.parametrize("path", LECTURES, ids=name)
def test_outputs_are_stored_from_one_fresh_run_without_errors(path: Path) -> None:
    code = cells(path, "code")
    counts = [cell["execution_count"] for cell in code]
    assert counts == list(range(1, len(code) + 1))
    kinds = {output["output_type"] for cell in code for output in cell["outputs"]}
    assert "error" not in kinds
    pictures = [o for c in code for o in c["outputs"] if "image/png" in o.get("data", {})]
    assert pictures, "a lecture shows at least one figure"


@pytest.mark.parametrize("path", LECTURES, ids=name)
def test_code_cells_end_in_a_value_a_figure_or_an_assertion(path: Path) -> None:
    for cell in cells(path, "code")[2:]:  # after set-up and parameters
        last = ast.parse(source(cell)).body[-1]
        assert not isinstance(last, ast.Assign | ast.Import), source(cell)


@pytest.mark.parametrize("path", LECTURES, ids=name)
def test_no_machine_paths_in_stored_outputs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|tmp|work)/", text)


@pytest.mark.parametrize("path", SOLUTIONS, ids=name)
def test_solutions_store_no_outputs(path: Path) -> None:
    assert all(not cell["outputs"] for cell in cells(path, "code"))


@pytest.mark.parametrize("path", SOLUTIONS, ids=name)
def test_exercise_headers_say_points_difficulty_importance_and_minutes(path: Path) -> None:
    headers = [source(c) for c in cells(path, "markdown") if "xercise" in source(c)[:20]]
    assert 4 <= len(headers) <= 8
    for header in headers:
        for word in ("points", "difficulty", "importance", "minutes", "<details>"):
            assert word in header.lower(), f"{word} missing in: {header[:60]}"


@pytest.mark.parametrize("path", SOLUTIONS, ids=name)
def test_points_of_a_lab_lie_between_20_and_40(path: Path) -> None:
    points = [
        cell["metadata"]["nbgrader"]["points"]
        for cell in cells(path, "code")
        if cell["metadata"].get("nbgrader", {}).get("grade")
    ]
    assert 20 <= sum(points) <= 40
