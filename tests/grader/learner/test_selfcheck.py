"""`grader check`: the check cells' messages in a terminal, and a sentence for every mistake."""

import copy
import linecache
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from grader.box.tier import Tier
from grader.checks.core import load_lab
from grader.checks.learner import CheckFailed, lab
from grader.cli.main import main
from grader.course import Course
from grader.learner import selfcheck
from grader.learner.selfcheck import (
    asked_for,
    check,
    lab_of,
    notebook_in,
    own_notebook,
    strongest_boxes,
)
from grader.notebooks import Notebook, grade_id, read_notebook, source, write_notebook
from grader.results import Status
from grader.sample_class import samples
from grader.transplant import transplant

LAB = "lab03_lora"
RAISES = """def merge_weight(weight, lora_A, lora_B, scaling):
    return weight.no_such_thing
"""
CRASHES = """def diagnose(layer, alpha):
    import os
    os._exit(3)
"""
WRONG_SHAPE = """def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    return (lora_B @ lora_A).T
"""


def cell_named(notebook: Notebook, name: str) -> dict:
    return next(cell for cell in notebook["cells"] if grade_id(cell) == name)


@pytest.fixture(scope="module")
def solved(course: Course) -> Notebook:
    return next(s.notebook for s in samples(course, LAB) if s.student == "ada-perfect")


@pytest.fixture(scope="module")
def mixed(course: Course, solved: Notebook) -> Notebook:
    """One exercise each that is wrong, right, not written, raising and ending its process."""
    release = read_notebook(course.release(LAB))
    notebook = copy.deepcopy(solved)
    cell_named(notebook, "lora_delta")["source"] = WRONG_SHAPE
    cell_named(notebook, "apply_lora")["source"] = source(cell_named(release, "apply_lora"))
    cell_named(notebook, "merge_weight")["source"] = RAISES
    cell_named(notebook, "diagnose")["source"] = CRASHES
    notebook["cells"][2:2] = [7, None, {}, {"cell_type": "code"}]
    return notebook


@pytest.fixture
def learners(tmp_path: Path) -> Course:
    """A repository as learners have it: without solved notebooks."""
    (tmp_path / "nbgrader_config.py").touch()
    return Course(root=tmp_path)


def cell_message(notebook: Notebook, name: str) -> str:
    """What the notebook's own check cell says."""
    namespace: dict = {"__name__": "__main__"}
    for cell in transplant(notebook, notebook).cells_to_run():
        where, text = f"<cell {cell['id']}>", cell["source"]
        linecache.cache[where] = (len(text), None, text.splitlines(keepends=True), where)
        exec(compile(text, where, "exec", dont_inherit=True), namespace)
    try:
        lab(LAB)(name, namespace[load_lab(LAB).check(name).implementation])
    except CheckFailed as failed:
        return str(failed)
    return ""


def test_messages_are_those_of_the_check_cells(mixed: Notebook) -> None:
    with strongest_boxes(LAB) as boxes:
        found = {exercise.name: exercise for exercise in check(boxes, mixed)}
    assert list(found) == [item.name for item in load_lab(LAB).checks]
    crashed = found.pop("diagnose")
    assert crashed.status is Status.CRASH
    assert "the process ended" in crashed.message
    whole = {**mixed, "cells": [cell for cell in mixed["cells"] if cell and cell != 7]}
    for name, exercise in found.items():
        said = f"{name}: {exercise.message}" if exercise.message else ""
        assert said == cell_message(whole, name)
    assert {name for name, exercise in found.items() if exercise.passes} == {
        "lora_linear",
        "train_step",
    }
    assert [name for name, exercise in found.items() if not exercise.is_written] == ["apply_lora"]


def test_the_table(learners: Course, mixed: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    write_notebook(learners.release(LAB), mixed)
    assert main(["--root", str(learners.root), "check", LAB]) == 1
    out = capsys.readouterr().out
    assert f"{LAB}.ipynb, as saved on 20" in out.splitlines()[0]
    assert "wrong    lora_delta                 0/4\n         " in out
    assert "Hint: " in out
    assert "OK       lora_linear                7/7\n" in out
    assert "to do    apply_lora                 0/6  apply_lora is not written yet\n" in out
    assert "stopped  diagnose                   0/6\n" in out
    last = "2 of 6 exercises pass. 12 of 32 points so far. Save your notebook before you"
    assert out.splitlines()[-1].startswith(last)
    assert "\x1b" not in out
    assert "Traceback" not in out


def test_a_solved_lab_ends_with_status_0_and_colours_are_for_terminals(
    learners: Course,
    solved: Notebook,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_notebook(learners.release(LAB), solved)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["--root", str(learners.root), "check", LAB]) == 0
    out = capsys.readouterr().out
    assert out.count("\x1b[32mOK") == 6
    assert "6 of 6 exercises pass. 32 of 32 points, if grading's other inputs pass too." in out


@pytest.mark.parametrize(
    ("tiers", "sentence"),
    [
        (selfcheck.OWN_CODE_TIERS, "does not work here: your code runs "),
        ((Tier.BUBBLEWRAP, Tier.RLIMITS), "does not work here: your code runs without isolation."),
    ],
)
def test_without_bubblewrap_it_runs_and_says_so(
    learners: Course,
    mixed: Notebook,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiers: tuple[Tier, ...],
    sentence: str,
) -> None:
    monkeypatch.setenv("PATH", str(learners.root))
    monkeypatch.setattr(selfcheck, "OWN_CODE_TIERS", tiers)
    write_notebook(learners.release(LAB), mixed)
    assert main(["--root", str(learners.root), "check", LAB]) == 1
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert "2 of 6 exercises pass." in shown.out


def test_a_notebook_elsewhere_may_be_named(
    learners: Course, solved: Notebook, tmp_path: Path
) -> None:
    write_notebook(tmp_path / "try.ipynb", solved)
    path, notebook = own_notebook(learners, LAB, tmp_path / "try.ipynb")
    assert path.name == "try.ipynb"
    assert notebook == read_notebook(path)


def without_setup(notebook: Notebook) -> None:
    notebook["cells"].remove(cell_named(notebook, "setup"))


def of_another_lab(notebook: Notebook) -> None:
    setup = cell_named(notebook, "setup")
    setup["source"] = source(setup).replace(LAB, "lab09_generation")


def of_an_old_format(notebook: Notebook) -> None:
    notebook["nbformat"] = 3


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (without_setup, "try.ipynb is no lab's notebook: the setup cell"),
        (of_another_lab, "try.ipynb is a notebook of lab09_generation, not of lab03_lora"),
        (of_an_old_format, "open it in JupyterLab and save it again"),
        (None, "there is no notebook"),
    ],
)
def test_a_notebook_that_is_not_this_labs_is_named_in_one_sentence(
    learners: Course,
    solved: Notebook,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Notebook], None] | None,
    sentence: str,
) -> None:
    path = learners.root / "try.ipynb"
    if damage:
        notebook = copy.deepcopy(solved)
        damage(notebook)
        write_notebook(path, notebook)
    assert main(["--root", str(learners.root), "check", LAB, str(path)]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("grader: ")
    assert sentence in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_the_lab_of_a_folder(
    learners: Course,
    solved: Notebook,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = learners.release(LAB).parent
    with pytest.raises(ValueError, match="go to the lab's folder, or name the lab"):
        notebook_in(folder)
    write_notebook(folder / "mine.ipynb", solved)
    write_notebook(folder / "lecture.ipynb", {"nbformat": 4, "cells": []})
    assert notebook_in(folder) == (LAB, folder / "mine.ipynb")
    write_notebook(folder / "mine-Copy1.ipynb", solved)
    with pytest.raises(ValueError, match=r"\(mine-Copy1\.ipynb, mine\.ipynb\): name one"):
        notebook_in(folder)
    (folder / f"{LAB}.ipynb").write_text("{")
    assert notebook_in(folder) == (LAB, folder / f"{LAB}.ipynb")
    monkeypatch.chdir(folder)
    assert main(["--root", str(learners.root), "check"]) == 2
    assert f"{LAB}.ipynb is not a notebook: it is not valid JSON" in capsys.readouterr().err


def test_a_lab_is_named_by_its_folder_or_its_notebook_too(
    learners: Course,
    solved: Notebook,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_notebook(learners.release(LAB), solved)
    monkeypatch.chdir(learners.root)
    named = learners.release(LAB).relative_to(learners.root)
    assert asked_for(LAB) == (LAB, None)
    assert asked_for(str(named)) == (LAB, named)
    for folder in (str(named.parent), f"{named.parent}/"):
        assert asked_for(folder) == (LAB, learners.release(LAB))
    write_notebook(learners.root / "lecture.ipynb", {"nbformat": 4, "cells": []})
    for target, sentence in {
        "labs/lab99": "there is no lab's notebook in",
        "lab99": f"lab99/lab99.ipynb; in labs/ there is: {LAB}",
        "lecture.ipynb": "lecture.ipynb is no lab's notebook: the setup cell",
        "gone.ipynb": "gone.ipynb is not a regular file",
        "-": "lab '-' must be 1 to 100",
    }.items():
        assert main(["check", target]) == 2
        assert sentence in capsys.readouterr().err


def test_every_released_lab_names_itself(real_course: Course) -> None:
    for name in real_course.labs():
        assert lab_of(read_notebook(real_course.release(name))) == name


def test_an_interrupt_is_no_traceback(
    learners: Course,
    solved: Notebook,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> Iterator[selfcheck.Exercise]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(selfcheck, "check", interrupted)
    write_notebook(learners.release(LAB), solved)
    assert main(["--root", str(learners.root), "check", LAB]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "grader: stopped"
