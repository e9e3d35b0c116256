"""Only solution cells cross; whatever else happened to the notebook is ignored and noted."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from grader.course import Course
from grader.notebooks import (
    InvalidNotebookError,
    Notebook,
    grade_id,
    read_notebook,
    source,
    write_notebook,
)
from grader.transplant import find_submission, transplant

LAB = "lab03_lora"
ANSWER = "def lora_delta(*a, **k):\n    return 'mine'\n"


@pytest.fixture
def release(course: Course) -> Notebook:
    return read_notebook(course.release(LAB))


@pytest.fixture
def mine(release: Notebook) -> Notebook:
    notebook = copy.deepcopy(release)
    cell_named(notebook, "lora_delta")["source"] = ANSWER
    return notebook


def cell_named(notebook: Notebook, name: str) -> dict:
    return next(cell for cell in notebook["cells"] if grade_id(cell) == name)


def test_answers_cross_and_nothing_else(release: Notebook, mine: Notebook) -> None:
    mine["cells"].insert(
        1, {"cell_type": "code", "metadata": {}, "source": "evil()", "outputs": []}
    )
    cell_named(mine, "setup")["source"] = "evil()"
    made = transplant(release, mine)
    assert made.answered == {"lora_delta"}
    assert "evil" not in json.dumps(made.notebook)
    assert source(cell_named(made.notebook, "lora_delta")) == ANSWER
    assert made.notes == ()


def remove(notebook: Notebook, name: str) -> None:
    notebook["cells"].remove(cell_named(notebook, name))


def duplicate(notebook: Notebook, name: str) -> None:
    notebook["cells"].append(copy.deepcopy(cell_named(notebook, name)))


def retype(notebook: Notebook, name: str) -> None:
    cell_named(notebook, name)["cell_type"] = "markdown"


def strip_metadata(notebook: Notebook, name: str) -> None:
    cell_named(notebook, name)["metadata"] = {}


def points(notebook: Notebook, name: str) -> None:
    cell = cell_named(notebook, name)
    cell["metadata"]["nbgrader"]["points"] = 99
    cell["metadata"]["tags"] = ["skip-execution"]


@pytest.mark.parametrize(
    ("damage", "name", "note"),
    [
        (remove, "check_lora_delta", "was deleted"),
        (duplicate, "check_lora_delta", "was changed"),
        (strip_metadata, "check_lora_delta", "was deleted"),
        (points, "check_lora_delta", None),
        (duplicate, "lora_delta", "more than once"),
        (retype, "lora_delta", "type changed"),
        (remove, "diagnose", "'diagnose' is missing"),
    ],
)
def test_damage_is_repaired_and_noted(
    release: Notebook, mine: Notebook, damage: Callable, name: str, note: str | None
) -> None:
    damage(mine, name)
    made = transplant(release, mine)
    assert source(cell_named(made.notebook, "lora_delta")) == ANSWER
    assert [cell["metadata"] for cell in made.notebook["cells"]] == [
        cell["metadata"] for cell in release["cells"]
    ]
    assert (note is None and made.notes == ()) or note in " ".join(made.notes)


def test_of_duplicates_the_last_counts(release: Notebook, mine: Notebook) -> None:
    duplicate(mine, "lora_delta")
    mine["cells"][-1]["source"] = ["last", " one"]
    assert source(cell_named(transplant(release, mine).notebook, "lora_delta")) == "last one"


def test_the_hash_is_of_the_answers_alone(release: Notebook, mine: Notebook) -> None:
    first = transplant(release, mine).sha256
    cell_named(mine, "setup")["source"] = "x"
    assert transplant(release, mine).sha256 == first
    cell_named(mine, "diagnose")["source"] = "x"
    assert transplant(release, mine).sha256 != first


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "not valid JSON"),
        (b"{" * 200_000, "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b"\xff\xfe{", "not valid JSON"),
        (b"[]", "not a notebook of format 4"),
        (b'{"nbformat": 3, "worksheets": []}', "it says '3'"),
        (b'{"nbformat": 99, "cells": []}', "it says '99'"),
        (b'{"nbformat": 4, "cells": {}}', "no list of at most"),
        (b'{"nbformat": 4}', "no list of at most"),
    ],
)
def test_what_is_no_notebook_gets_a_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "x.ipynb"
    path.write_bytes(content)
    with pytest.raises(InvalidNotebookError, match=sentence):
        read_notebook(path)


@pytest.mark.parametrize("cell", [7, None, {}, {"metadata": 3}, {"metadata": {"nbgrader": []}}])
def test_odd_cells_are_passed_over(
    tmp_path: Path, release: Notebook, mine: Notebook, cell: object
) -> None:
    mine["cells"].insert(0, cell)
    write_notebook(tmp_path / "odd.ipynb", mine)
    assert transplant(release, read_notebook(tmp_path / "odd.ipynb")).answered == {"lora_delta"}


def test_a_link_is_not_followed(tmp_path: Path, mine: Notebook) -> None:
    write_notebook(tmp_path / "secret", mine)
    (tmp_path / "x.ipynb").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidNotebookError, match="not a regular file"):
        read_notebook(tmp_path / "x.ipynb")


@pytest.mark.parametrize("name", [f"{LAB}.ipynb", "mine.ipynb"])
@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_second_name_of_somebody_elses_file_is_refused(
    tmp_path: Path, release: Notebook, mine: Notebook, name: str, link: Callable[..., None]
) -> None:
    write_notebook(tmp_path / "ben" / "secret", mine)
    (tmp_path / "ada" / LAB).mkdir(parents=True)
    link(tmp_path / "ben" / "secret", tmp_path / "ada" / LAB / name)
    with pytest.raises(InvalidNotebookError, match=r"is a link|no notebook"):
        find_submission(tmp_path / "ada" / LAB, LAB, release)


@pytest.mark.parametrize("linked", ["ada", f"ada/{LAB}"])
def test_a_folder_that_leads_to_somebody_elses_is_refused(
    tmp_path: Path, release: Notebook, mine: Notebook, linked: str
) -> None:
    write_notebook(tmp_path / "ben" / LAB / f"{LAB}.ipynb", mine)
    (tmp_path / linked).parent.mkdir(exist_ok=True)
    (tmp_path / linked).symlink_to(tmp_path / linked.replace("ada", "ben"))
    with pytest.raises(InvalidNotebookError, match="folder is a link"):
        find_submission(tmp_path / "ada" / LAB, LAB, release)


def test_folders_deeper_than_a_path_may_be_long_are_passed_over(
    tmp_path: Path, release: Notebook, mine: Notebook
) -> None:
    write_notebook(tmp_path / LAB / "mine.ipynb", mine)
    inside = os.open(tmp_path / LAB, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=inside)
        deeper = os.open("d" * 200, os.O_RDONLY, dir_fd=inside)
        os.close(inside)
        inside = deeper
    os.close(os.open("x.ipynb", os.O_CREAT | os.O_WRONLY, dir_fd=inside))
    os.close(inside)
    assert find_submission(tmp_path / LAB, LAB, release)[0].name == "mine.ipynb"


def test_folders_deeper_than_python_can_follow_are_a_sentence_or_passed_over(
    tmp_path: Path, release: Notebook, mine: Notebook
) -> None:
    write_notebook(tmp_path / LAB / "mine.ipynb", mine)
    subprocess.run(["mkdir", "-p", str(tmp_path / LAB / "/".join("d" * 1200))], check=True)
    refused = pytest.raises(InvalidNotebookError, match="nested too deep")
    with refused if sys.version_info < (3, 12) else nullcontext():
        assert find_submission(tmp_path / LAB, LAB, release)[0].name == "mine.ipynb"
    subprocess.run(["rm", "-rf", str(tmp_path / LAB)], check=True)


def test_a_check_cell_with_an_answers_name_takes_no_answers_place(
    release: Notebook, mine: Notebook
) -> None:
    answer = cell_named(mine, "lora_delta")
    copied = copy.deepcopy(answer) | {"source": "1 / 0"}
    copied["metadata"]["nbgrader"] |= {"solution": False, "grade": True}
    mine["cells"].append(copied)
    assert "1 / 0" not in str(transplant(release, mine).notebook["cells"])


def test_an_answer_of_megabytes_is_left_out(release: Notebook, mine: Notebook) -> None:
    answer = cell_named(mine, "lora_delta")
    answer["source"] = "#" * 10**6
    done = transplant(release, mine)
    assert grade_id(answer) not in done.answered
    assert "has 1000000 characters, more than 200000: it was left out" in str(done.notes)


def test_a_renamed_notebook_is_found_by_its_cells(
    tmp_path: Path, release: Notebook, mine: Notebook
) -> None:
    write_notebook(tmp_path / "other.ipynb", {"nbformat": 4, "cells": []})
    write_notebook(tmp_path / "sub" / "final (2).ipynb", mine)
    path, notes = find_submission(tmp_path, LAB, release)
    assert path.name == "final (2).ipynb"
    assert "was called 'final (2).ipynb'" in notes[0]
    path.unlink()
    with pytest.raises(InvalidNotebookError, match="no notebook of lab03_lora"):
        find_submission(tmp_path, LAB, release)
