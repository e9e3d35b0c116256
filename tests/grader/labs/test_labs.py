"""Every lab: labkit passes, each mutant dies, the solution passes, the stub fails, points agree."""

import copy
import inspect
from typing import Any

import pytest

from grader.checks.core import HIDDEN_SEEDS, PUBLIC_SEED, Check, Lab, load_lab, run_check, verdicts
from grader.course import Course, find_course
from grader.grading import graded_cells
from grader.notebooks import Notebook, read_notebook
from grader.sample_class import without_markers
from grader.transplant import transplant

LABS = find_course().labs()
SEEDS = (PUBLIC_SEED, *HIDDEN_SEEDS, 11, 12)


def mutants(lab: str) -> dict[str, dict[str, Any]]:
    from importlib import import_module

    found: dict[str, dict[str, Any]] = import_module(f"grader.labs.{lab}.mutants").MUTANTS
    return found


def checks() -> list[Any]:
    return [pytest.param(c, id=f"{lab}-{c.name}") for lab in LABS for c in load_lab(lab).checks]


def every_mutant() -> list[Any]:
    return [
        pytest.param(load_lab(lab).check(name), impl, id=f"{lab}-{name}-{what}")
        for lab in LABS
        for name, wrong in mutants(lab).items()
        for what, impl in wrong.items()
    ]


@pytest.mark.parametrize("check", checks())
def test_labkit_passes(check: Check) -> None:
    assert verdicts(check, check.reference(), SEEDS).message == ""


@pytest.mark.parametrize(("check", "impl"), every_mutant())
def test_mutant_dies_in_public_and_hidden(check: Check, impl: Any) -> None:
    assert not run_check(check, impl, PUBLIC_SEED).ok
    assert not verdicts(check, impl, HIDDEN_SEEDS).ok


@pytest.mark.parametrize("lab", LABS)
def test_every_check_has_at_least_two_mutants(lab: str) -> None:
    counts = {check.name: len(mutants(lab).get(check.name, {})) for check in load_lab(lab).checks}
    assert all(count >= 2 for count in counts.values()), counts


def namespace(notebook: Notebook, release: Notebook) -> dict[str, Any]:
    """Run a notebook's setup and solution cells, as the sandbox does."""
    found: dict[str, Any] = {"__name__": "notebook"}
    for cell in transplant(release, notebook).cells_to_run():
        exec(compile(cell["source"], cell["id"], "exec", dont_inherit=True), found)
    return found


def definition_and_release(course: Course, lab: str) -> tuple[Lab, Notebook]:
    return load_lab(lab), read_notebook(course.release(lab))


@pytest.mark.parametrize("lab", LABS)
def test_solution_passes_and_stub_fails(real_course: Course, lab: str) -> None:
    definition, release = definition_and_release(real_course, lab)
    solved = namespace(without_markers(read_notebook(real_course.source(lab))), release)
    stub = namespace(copy.deepcopy(release), release)
    for check in definition.checks:
        assert verdicts(check, solved[check.implementation], SEEDS).message == ""
        assert not run_check(check, stub[check.implementation], PUBLIC_SEED).ok


def shape_of(symbol: Any) -> list[tuple[str, Any, Any]]:
    """Names, kinds and defaults of what a function or a class's constructor takes."""
    parameters = inspect.signature(symbol).parameters.values()
    return [(p.name, p.kind, p.default) for p in parameters]


@pytest.mark.parametrize("lab", LABS)
def test_stub_and_reference_take_the_same_arguments(real_course: Course, lab: str) -> None:
    definition, release = definition_and_release(real_course, lab)
    stub = namespace(copy.deepcopy(release), release)
    for check in definition.checks:
        mine, theirs = stub[check.implementation], check.reference()
        assert shape_of(mine) == shape_of(theirs), check.name
        assert mine.__doc__, check.name


@pytest.mark.parametrize("lab", LABS)
def test_points_of_the_notebook_are_those_of_the_checks(real_course: Course, lab: str) -> None:
    definition, release = definition_and_release(real_course, lab)
    cells = graded_cells(release, definition.checks)
    for check in definition.checks:
        mine = [cell for cell in cells if cell.check is check]
        assert {cell.hidden for cell in mine} == {True, False}, check.name
        assert sum(cell.points for cell in mine) == check.points, check.name
    assert 20 <= sum(cell.points for cell in cells) <= 40
