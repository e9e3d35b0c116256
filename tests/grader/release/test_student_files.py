"""What learners get is complete, clean, and checks every exercise of every lab."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from grader.checks.core import load_lab
from grader.course import Course, find_course
from grader.notebooks import grade_id, is_solution, read_notebook, source, write_notebook
from grader.release import student_files

CHECK_CELLS = """
import json, sys
from grader.checks.learner import CheckFailed
import grader
assert grader.__file__.startswith(sys.argv[1] + "/"), grader.__file__
for lab in sys.argv[2:]:
    verdicts = {}
    for name, path in (("released", f"labs/{lab}/{lab}.ipynb"), ("solved", f"solved/{lab}.ipynb")):
        scope = {"__name__": "notebook"}
        for cell in json.load(open(path))["cells"]:
            grader_metadata = cell["metadata"].get("nbgrader", {})
            if cell["cell_type"] != "code" or not grader_metadata:
                continue
            try:
                exec("".join(cell["source"]), scope)
                said = "silent"
            except CheckFailed as error:
                said = str(error)
            if grader_metadata["grade_id"].startswith("check_"):
                verdicts.setdefault(grader_metadata["grade_id"], {})[name] = said
    print(json.dumps({lab: verdicts}))
"""


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_what_is_there_and_what_is_not(repo: Path, real_course: Course) -> None:
    found = files(repo)
    for lab in real_course.labs():
        assert f"labs/{lab}/{lab}.ipynb" in found
        assert (repo / f"labs/{lab}/{lab}.ipynb").read_bytes() == real_course.release(
            lab
        ).read_bytes()
        assert {f"grader/labs/{lab}/{name}" for name in ("public.bin", "drive.py")} <= found
    assert {"README.md", "AGENTS.md", "LICENSE", "Makefile", "nbgrader_config.py"} <= found
    assert {"labkit/tuning/lora.py", "datasets/mini/model.safetensors"} <= found
    wrong = re.compile(
        r"solutions|mutant|(?<!p)reference|envelope\.py|gradebook|autograde|release|tests"
    )
    assert [name for name in found if wrong.search(name)] == []
    text = "".join(
        path.read_text() for path in (repo / "grader").rglob("*.py") if "labs" in path.parts
    )
    assert "IMPLEMENTATIONS" not in text
    assert "_inputs(rng" not in text


def test_packages_take_along_their_values_and_pins_are_all_there_is(repo: Path) -> None:
    settings = tomllib.loads((repo / "pyproject.toml").read_text())["tool"]["setuptools"]
    beside = {p.name for p in (repo / "grader" / "labs").rglob("*.*") if p.suffix != ".py"}
    assert beside == set(settings["package-data"]["*"])
    pins = (repo / "constraints.txt").read_text().splitlines()
    assert all("==" in pin for pin in pins)


def test_what_python_and_jupyter_leave_is_not_copied(tmp_path: Path) -> None:
    for name in ("a.py", "b/c.json", "__pycache__/a.pyc", ".ipynb_checkpoints/a.py", "a.log"):
        (tmp_path / "from" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "from" / name).write_text("x")
    student_files._copy_tree(tmp_path / "from", tmp_path / "to")
    assert files(tmp_path / "to") == {"a.py", "b/c.json"}


def test_lectures_keep_their_outputs(repo: Path, real_course: Course) -> None:
    lectures = [name for name in files(repo) if name.startswith("chapters/")]
    assert lectures
    for name in lectures:
        assert (repo / name).read_bytes() == (real_course.root / name).read_bytes()


def test_links_of_its_documents_lead_somewhere(repo: Path) -> None:
    for name in ("README.md", "AGENTS.md"):
        text = (repo / name).read_text()
        assert "$" not in re.sub(r"```.*?```", "", text, flags=re.DOTALL), name
        links = re.findall(r"\]\(([^)#]+)\)", text)
        assert [link for link in links if not (repo / link).exists()] == []


def test_check_cells_judge_every_exercise_of_every_lab(
    repo: Path, real_course: Course, tmp_path: Path, solve: Callable[[str, Path], None]
) -> None:
    labs = real_course.labs()
    for lab in labs:
        solve(lab, tmp_path / "solved" / f"{lab}.ipynb")
    (tmp_path / "labs").symlink_to(repo / "labs")
    done = subprocess.run(
        [sys.executable, "-c", CHECK_CELLS, str(repo), *labs],
        cwd=tmp_path,
        env={"PYTHONPATH": str(repo), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        for lab, verdicts in json.loads(line).items():
            assert len(verdicts) >= 5, lab
            for name, said in verdicts.items():
                assert said["solved"] == "silent", (lab, name, said)
                assert "is not written yet" in said["released"], (lab, name, said)


@pytest.mark.parametrize("lab", find_course(Path(__file__).parent).labs()[1:])
def test_every_other_lab_is_checked_there_in_a_terminal(
    own_copy: Path, real_course: Course, solve: Callable[[str, Path], None], lab: str
) -> None:
    """Of the first one the README's own test sees it."""
    path = own_copy / "labs" / lab / f"{lab}.ipynb"
    solve(lab, path)
    notebook = read_notebook(path)
    first = next(cell for cell in notebook["cells"] if is_solution(cell))
    release = read_notebook(real_course.release(lab))
    first["source"] = next(source(c) for c in release["cells"] if grade_id(c) == grade_id(first))
    write_notebook(path, notebook)
    done = subprocess.run(
        [sys.executable, "-m", "grader.cli.learner", "check", lab],
        cwd=own_copy,
        env={"PYTHONPATH": str(own_copy), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    total = len(load_lab(lab).checks)
    assert f"{total - 1} of {total} exercises pass" in done.stdout, done.stdout


def test_a_notebook_that_imports_what_learners_do_not_get_is_refused(
    real_course: Course, own_copy: Path
) -> None:
    lecture = own_copy / "chapters" / "training" / "04_lora.ipynb"
    notebook = read_notebook(lecture)
    text = "from grader.labs.lab03_lora import reference\nimport grader.grading.autograde, labkit"
    next(c for c in notebook["cells"] if c["cell_type"] == "code")["source"] = text
    write_notebook(lecture, notebook)
    assert student_files._unresolved_in_notebooks(real_course, own_copy) == [
        "grader.grading.autograde",
        "grader.labs.lab03_lora.reference",
    ]
