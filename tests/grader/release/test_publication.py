"""The last scan of a folder before it is published finds what was planted in it."""

import shutil
from pathlib import Path

import pytest

from grader.course import Course
from grader.notebooks import is_solution, read_notebook, source, write_notebook
from grader.release import publication
from grader.release.generate import all_answers

PLANTED = {
    "solutions/lab.txt": ("x", "a folder called 'solutions'"),
    "attempts/ada/lab.txt": ("x", "a folder called 'attempts'"),
    "notes/gradebook.db": ("x", "a file of this name"),
    "policy.toml": ("x", "a file of this name"),
    "roster.csv": ("x", "a file of this name"),
    "notes/reference.py": ("x", "a file of this name"),
    "notes/answer.md": ("scaling = alpha / math.sqrt(R) if use_rslora else 1", "lab03_lora/lora_d"),
    "notes/hidden.py": ('    check.hidden("diagnose", diagnose)', "a line of the hidden tests"),
    "notes/marked.py": ("### BEGIN SOLUTION", "the marker ### BEGIN SOLUTION"),
    "notes/key.txt": ("-----BEGIN OPENSSH PRIVATE KEY-----", "looks like a secret key"),
    "notes/token.txt": ("ghp_" + 36 * "a", "looks like a secret key"),
    "notes/home.txt": ("see /home/someone/course/", "a path of some machine, /home/someone/"),
    "notes/env.txt": ("x=planted-value-of-a-token", "the value of $PLANTED_TOKEN"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_the_last_scan_finds_what_was_planted(
    real_course: Course, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("PLANTED_TOKEN", "planted-value-of-a-token")
    text, why = PLANTED[name]
    path = tmp_path / "planted"
    path.write_text(text)
    (found,) = publication.scan(real_course, {name: path}, all_answers(real_course))
    assert found.startswith(f"{name}: ")
    assert why in found


def test_the_last_scan_reads_cells_outputs_paths_and_the_key(
    real_course: Course, tmp_path: Path
) -> None:
    course = Course(root=tmp_path / "course")
    shutil.copytree(real_course.root / "solutions", course.root / "solutions")
    course.seed_key.write_text(64 * "5")
    lab = course.labs()[0]
    answer = next(c for c in read_notebook(course.source(lab))["cells"] if is_solution(c))
    text = [line for line in source(answer).splitlines() if "###" not in line]
    cells = [
        {"cell_type": "code", "metadata": {}, "source": text, "outputs": []},
        {"cell_type": "code", "metadata": {}, "source": "", "outputs": [{"text": text}]},
        {"cell_type": "code", "metadata": {}, "source": "", "attachments": {"a": {"b": text}}},
        {"cell_type": "code", "metadata": {"answer": text}, "source": "", "outputs": []},
    ]
    notebooks = [{"nbformat": 4, "metadata": {}, "cells": [cell]} for cell in cells]
    notebooks.append({"nbformat": 4, "metadata": {"answer": text}, "cells": []})
    for index, notebook in enumerate(notebooks):
        write_notebook(tmp_path / f"{index}.ipynb", notebook)
    (tmp_path / "5.bin").write_bytes(b"\xff" + 64 * b"5")
    (tmp_path / "6.txt").write_text(f"{course.root}/solutions")
    planted = {path.name: path for path in tmp_path.glob("?.*")}
    found = publication.scan(course, planted, all_answers(course))
    named = [line.partition(":")[0] for line in found]
    assert named == [*(f"{index}.ipynb" for index in range(5)), "5.bin", "6.txt"]
