"""otter-grader on the same notebooks: the lab's checks as its tests, without a container."""

import json
import subprocess
import time
from pathlib import Path

from grader.checks.core import load_lab
from grader.course import Course
from grader.notebooks import grade_id, is_grade, nbgrader, read_notebook, source, write_notebook

VERSION = "7.0.0"
PYTHON = Path(__file__).parents[1] / ".venv-otter" / "bin" / "python"
TEST = """from otter.test_files import test_case

OK_FORMAT = False
name = "{name}"
points = None


@test_case(points={public}, hidden=False)
def test_public({symbol}, check):
    check("{name}", {symbol})


@test_case(points={rest}, hidden=True)
def test_hidden({symbol}, check):
    check.hidden("{name}", {symbol})
"""


def make(course: Course, lab: str, folder: Path) -> Path:
    """An otter configuration with one test file for each exercise; returns the zip."""
    points: dict[str, float] = {}
    for cell in read_notebook(course.release(lab))["cells"]:
        if is_grade(cell):
            points[grade_id(cell)] = nbgrader(cell)["points"]
    tests = folder / "otter" / "tests"
    tests.mkdir(parents=True)
    for check in load_lab(lab).checks:
        public, hidden = (points[f"{kind}_{check.name}"] for kind in ("check", "hidden"))
        text = TEST.format(name=check.name, symbol=check.implementation, public=public, rest=hidden)
        (tests / f"{check.name}.py").write_text(text)
    target = folder / "otter" / "autograder.zip"
    command = ["-m", "otter", "generate", "-t", "tests", "-o", str(target), "--no-environment"]
    subprocess.run([str(PYTHON), *command], cwd=tests.parent, check=True, capture_output=True)
    return target


def grade(
    course: Course, lab: str, students: list[str], config: Path, folder: Path
) -> tuple[float, dict[str, float]]:
    """Seconds of one `otter run` for each student, one after another, and their scores."""
    seconds, scores = 0.0, {}
    for student in students:
        out = folder / "otter" / student
        out.mkdir(exist_ok=True)
        notebook = read_notebook(course.submitted(lab, student))
        # otter runs its tests after the notebook: the check cells would only repeat them.
        notebook["cells"] = [
            {**cell, "source": source(cell)} for cell in notebook["cells"] if not is_grade(cell)
        ]
        write_notebook(out / f"{lab}.ipynb", notebook)
        command = ["-m", "otter", "run", f"{lab}.ipynb", "-a", str(config), "-o", "."]
        started = time.monotonic()
        subprocess.run([str(PYTHON), *command], cwd=out, check=True, capture_output=True)
        seconds += time.monotonic() - started
        tests = json.loads((out / "results.json").read_text())["tests"]
        scores[student] = sum(float(test.get("score", 0.0)) for test in tests)
    return seconds, scores
