"""Every lab: labkit passes, each mutant dies, the solution passes, the stub fails, points agree."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from grader.checks.core import HIDDEN_SEEDS, PUBLIC_SEED, Check, Lab, load_lab, run_check, verdicts
from grader.course import Course, find_course
from grader.grading.submission import graded_cells
from grader.mutants import load_mutants
from grader.notebooks import Notebook, read_notebook
from grader.solved import without_markers

LABS = find_course().labs()
SEEDS = (PUBLIC_SEED, *HIDDEN_SEEDS, 11, 12)
Namespace = Callable[[str, Notebook], dict[str, Any]]


def checks() -> list[Any]:
    return [pytest.param(c, id=f"{lab}-{c.name}") for lab in LABS for c in load_lab(lab).checks]


def every_mutant() -> list[Any]:
    return [
        pytest.param(lab, question, name, id=f"{lab}-{question}-{name}")
        for lab in LABS
        for question, wrong in load_mutants(lab).items()
        for name in wrong
    ]


@pytest.mark.parametrize("check", checks())
def test_labkit_passes(check: Check) -> None:
    assert verdicts(check, check.reference(), SEEDS).message == ""


@pytest.mark.parametrize(("lab", "question", "name"), every_mutant())
def test_mutant_dies_in_public_and_hidden(
    mutants: Callable[[str, str], dict[str, Any]], lab: str, question: str, name: str
) -> None:
    check, impl = load_lab(lab).check(question), mutants(lab, question)[name]
    assert not run_check(check, impl, PUBLIC_SEED).ok
    assert not verdicts(check, impl, HIDDEN_SEEDS).ok


def definition_and_release(course: Course, lab: str) -> tuple[Lab, Notebook]:
    return load_lab(lab), read_notebook(course.release(lab))


@pytest.mark.parametrize("lab", LABS)
def test_solution_passes_and_stub_fails(
    real_course: Course, namespace: Namespace, lab: str
) -> None:
    definition, release = definition_and_release(real_course, lab)
    solved = namespace(lab, without_markers(read_notebook(real_course.source(lab))))
    stub = namespace(lab, release)
    for check in definition.checks:
        assert verdicts(check, solved[check.implementation], SEEDS).message == ""
        assert not run_check(check, stub[check.implementation], PUBLIC_SEED).ok


def shape_of(symbol: Any) -> list[tuple[str, Any, Any]]:
    """Names, kinds and defaults of what a function or a class's constructor takes."""
    parameters = inspect.signature(symbol).parameters.values()
    return [(p.name, p.kind, p.default) for p in parameters]


@pytest.mark.parametrize("lab", LABS)
def test_stub_and_reference_take_the_same_arguments(
    real_course: Course, namespace: Namespace, lab: str
) -> None:
    definition, release = definition_and_release(real_course, lab)
    stub = namespace(lab, release)
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
