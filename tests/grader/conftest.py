"""A small course on disk: lab 03 without its final part, released, in a folder of its own."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from grader.checks.core import load_lab
from grader.course import Course, find_course
from grader.mutants import load_mutants, mutated
from grader.notebooks import Notebook, grade_id, read_notebook, tags, write_notebook
from grader.release.generate import release
from grader.transplant import transplant

LAB = "lab03_lora"
REAL = find_course(Path(__file__).parent)


def without_final_part(notebook: Notebook) -> Notebook:
    """Keep the title, setup, parameters and exercises; what follows needs the real model."""
    last = max(i for i, cell in enumerate(notebook["cells"]) if grade_id(cell))
    kept = notebook["cells"][: last + 1]
    return {
        **notebook,
        "cells": [c for c in kept if grade_id(c) or tags(c) or c["cell_type"] != "code"],
    }


@pytest.fixture(scope="session")
def real_course() -> Course:
    """The repository itself; tests only read it."""
    return REAL


@pytest.fixture(scope="session")
def course(tmp_path_factory: pytest.TempPathFactory) -> Course:
    """A released course that tests may submit to; tests must use students of their own."""
    made = Course(root=tmp_path_factory.mktemp("course"))
    (made.root / "nbgrader_config.py").write_text((REAL.root / "nbgrader_config.py").read_text())
    write_notebook(made.source(LAB), without_final_part(read_notebook(REAL.source(LAB))))
    for name in ("envelope.json",):
        beside = REAL.source(LAB).with_name(name)
        if beside.is_file():
            made.source(LAB).with_name(name).write_bytes(beside.read_bytes())
    release(made, LAB)
    return made


@pytest.fixture(scope="session")
def namespace() -> Callable[[str, Notebook], dict[str, Any]]:
    """Runs a lab notebook's setup and solution cells in this process, as the sandbox does."""

    def run(lab: str, notebook: Notebook) -> dict[str, Any]:
        found: dict[str, Any] = {"__name__": "notebook"}
        for cell in transplant(read_notebook(REAL.release(lab)), notebook).cells_to_run():
            exec(compile(cell["source"], cell["id"], "exec", dont_inherit=True), found)
        return found

    return run


@pytest.fixture(scope="session")
def mutants(
    namespace: Callable[[str, Notebook], dict[str, Any]],
) -> Callable[[str, str], dict[str, Any]]:
    """Makes the wrong implementations of a lab's question in this process, by their names."""

    @cache
    def made(lab: str, question: str) -> dict[str, Any]:
        solved, symbol = (
            read_notebook(REAL.source(lab)),
            load_lab(lab).check(question).implementation,
        )
        return {
            name: namespace(lab, mutated(solved, question, mutant))[symbol]
            for name, mutant in load_mutants(lab)[question].items()
        }

    return made
