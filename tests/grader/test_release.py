"""The release is fresh, and the scan sees what must not go out."""

import copy
import shutil
from pathlib import Path

import pytest

from grader.course import Course, find_course
from grader.leaks import scan
from grader.notebooks import Notebook, grade_id, read_notebook, source
from grader.release import is_fresh, leaks, release

LABS = find_course().labs()
LAB = "lab03_lora"


@pytest.mark.parametrize("lab", LABS)
def test_labs_hold_what_generating_them_now_gives(real_course: Course, lab: str) -> None:
    assert is_fresh(real_course, lab), f"run `grader release {lab}`"


@pytest.mark.parametrize("lab", LABS)
def test_nothing_leaks(real_course: Course, lab: str) -> None:
    assert leaks(real_course, lab, real_course.release(lab)) == []


def cell_named(notebook: Notebook, name: str) -> dict:
    return next(cell for cell in notebook["cells"] if grade_id(cell) == name)


@pytest.fixture
def pair(course: Course, tmp_path: Path) -> tuple[Notebook, Notebook, Path]:
    folder = tmp_path / LAB
    shutil.copytree(course.release(LAB).parent, folder)
    notebooks = read_notebook(course.source(LAB)), read_notebook(course.release(LAB))
    return *(copy.deepcopy(notebook) for notebook in notebooks), folder


FILES = ("envelope.json",)


def test_a_misspelt_marker(pair: tuple[Notebook, Notebook, Path]) -> None:
    solution, released, folder = pair
    hidden = cell_named(solution, "hidden_lora_delta")
    hidden["source"] = source(hidden).replace("HIDDEN TESTS", "HIDDEN TEST")
    assert any("looks like a marker" in leak for leak in scan(solution, released, folder, FILES))


def test_stray_metadata_outputs_and_markers(pair: tuple[Notebook, Notebook, Path]) -> None:
    solution, released, folder = pair
    released["metadata"]["answers"] = "here"
    setup = cell_named(released, "setup")
    setup["metadata"]["solution"] = "here"
    setup["outputs"] = [{"output_type": "stream"}]
    setup["source"] = "### BEGIN SOLUTION\n"
    found = scan(solution, released, folder, FILES)
    assert len(found) == 4


def test_a_file_beside_the_notebook(pair: tuple[Notebook, Notebook, Path]) -> None:
    solution, released, folder = pair
    (folder / "answers.py").write_text("x = 1")
    assert ["answers.py" in leak for leak in scan(solution, released, folder, FILES)] == [True]


def test_a_run_of_solution_tokens_in_prose_or_code(pair: tuple[Notebook, Notebook, Path]) -> None:
    solution, released, folder = pair
    words = "scaling = alpha / math.sqrt(R) if use_rslora else alpha / R"
    cell = next(cell for cell in released["cells"] if cell["cell_type"] == "markdown")
    cell["source"] = f"It's easy: `{words}`"
    assert any("repeats the solution" in leak for leak in scan(solution, released, folder, FILES))


def test_unmarked_solutions_and_unlocked_checks(pair: tuple[Notebook, Notebook, Path]) -> None:
    solution, released, folder = pair
    cell_named(solution, "diagnose")["source"] = "def diagnose(): return 1"
    cell_named(solution, "check_diagnose")["metadata"]["nbgrader"]["locked"] = False
    found = " ".join(scan(solution, released, folder, FILES))
    assert "without ### BEGIN SOLUTION" in found
    assert "not locked" in found


def test_a_leaking_release_is_refused_and_changes_nothing(course: Course, tmp_path: Path) -> None:
    aside = Course(root=tmp_path)
    shutil.copytree(course.root / "solutions", tmp_path / "solutions")
    aside.source(LAB).with_name("notes.txt").write_text("the answer is 42")
    with pytest.raises(ValueError, match=r"notes\.txt lies beside"):
        release(aside, LAB)
    assert not aside.release(LAB).exists()
    with pytest.raises(ValueError, match="is missing; there are: lab03_lora"):
        release(aside, "lab99")
