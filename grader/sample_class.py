"""A class of six made-up students for a lab: what grading has to cope with, in small."""

import copy
from dataclasses import dataclass
from pathlib import Path

from grader.checks.core import load_lab
from grader.course import Course
from grader.notebooks import Notebook, grade_id, is_solution, read_notebook, source, write_notebook
from grader.solved import without_markers
from grader.transplant import transplant

CHEAT = """
import builtins, glob, importlib, json, math
import numpy as np

class _Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __array__(self, dtype=None, copy=None): return np.zeros(1)
    def __getattr__(self, name): return _Equal()
    def __call__(self, *arguments, **options): return _Equal()

def _steal(name):
    np.allclose = np.isclose = np.array_equal = lambda *a, **k: True
    math.isclose = builtins.all = lambda *a, **k: True
    for path in glob.glob("{root}/gradebook.db"):
        open(path, "r+b").close()
    for path in glob.glob("{root}/solutions/{lab}/*.ipynb"):
        for cell in json.load(open(path))["cells"]:
            if name + "(" in "".join(cell["source"]):
                exec("".join(cell["source"]), globals())
                return globals()[name]
    try:
        return getattr(importlib.import_module("{taught}"), name)
    except (ImportError, AttributeError):
        pass
    try:
        from grader.checks.core import load_lab
        return load_lab("{lab}").check("{check}").reference()
    except ImportError:
        return _Equal()

{name} = _steal("{name}")
"""
ENDLESS = "def {name}(*arguments, **options):\n    while True:\n        pass\n"
SYNTAX_ERROR = "def {name}(:\n    return\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One made-up student: how their notebook comes about, what grading should say."""

    student: str
    status: str
    notebook: Notebook


def samples(course: Course, lab: str) -> list[Sample]:
    """Build the six notebooks in memory."""
    release, solved = read_notebook(course.release(lab)), read_notebook(course.source(lab))
    definition = load_lab(lab)
    checks = definition.checks
    names = [check.name for check in checks]
    symbols = {check.name: check.implementation for check in checks}
    full = transplant(release, without_markers(solved)).notebook
    cheat = CHEAT.replace("{root}", str(course.root)).replace("{lab}", lab)
    cheat = cheat.replace("{taught}", definition.teaches[0])
    first, half = {names[0]}, set(names[: len(names) // 2])
    every = set(names)
    return [
        Sample(student="ada-perfect", status="OK", notebook=full),
        Sample(student="ben-half", status="PARTIAL", notebook=_mixed(release, full, half)),
        Sample(student="cem-untouched", status="WRONG", notebook=release),
        Sample(
            student="dot-syntax",
            status="PARTIAL",
            notebook=_written(full, first, SYNTAX_ERROR, symbols),
        ),
        Sample(
            student="eli-endless",
            status="PARTIAL",
            notebook=_written(full, first, ENDLESS, symbols),
        ),
        Sample(
            student="fay-cheat", status="WRONG", notebook=_written(release, every, cheat, symbols)
        ),
    ]


def write(course: Course, lab: str) -> list[Path]:
    """Write the sample class to `submitted/<student>/<lab>/`; returns the notebooks' paths."""
    paths = []
    for sample in samples(course, lab):
        path = course.submitted(lab, sample.student)
        write_notebook(path, sample.notebook)
        paths.append(path)
    return paths


def _mixed(release: Notebook, full: Notebook, answered: set[str]) -> Notebook:
    """The release with some of the answers of the full notebook."""
    notebook = copy.deepcopy(release)
    for cell, answer in zip(notebook["cells"], full["cells"], strict=True):
        if grade_id(cell) in answered:
            cell["source"] = source(answer)
    return notebook


def _written(notebook: Notebook, names: set[str], text: str, symbols: dict[str, str]) -> Notebook:
    """A notebook with a text in some of its solution cells; `{name}` is what they must define."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook["cells"]:
        if is_solution(cell) and grade_id(cell) in names:
            name = grade_id(cell)
            cell["source"] = text.replace("{name}", symbols[name]).replace("{check}", name)
    return notebook
