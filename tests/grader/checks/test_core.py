"""A check's life in one process, and what the notebook's line says."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from grader.checks.core import EXACT, PUBLIC_SEED, Check, Lab, compare, load_lab, run_check
from grader.checks.explain import ContractError, explain
from grader.checks.learner import CheckFailed, LabChecks
from grader.checks.values import Tolerance

DOUBLE = Check(
    name="double",
    points=3,
    inputs=lambda rng: {"x": rng.standard_normal(5)},
    drive=lambda impl, inputs: {"y": impl(inputs["x"])},
    reference=lambda: lambda x: 2 * x,
    hint="twice, not squared.",
    tolerance=Tolerance(rtol=1e-9),
)
LAB = Lab(name="lab", checks=(DOUBLE,), teaches=())


def test_right_and_wrong() -> None:
    assert run_check(DOUBLE, lambda x: x + x, PUBLIC_SEED).ok
    wrong = run_check(DOUBLE, lambda x: x**2, PUBLIC_SEED)
    assert not wrong.ok
    assert "y: 5 of 5 values differ" in wrong.message
    assert "Hint: twice, not squared." in wrong.message


def test_each_finding_may_have_a_hint_of_its_own() -> None:
    check = replace(DOUBLE, hints={"lonely": "no.", "y": "about y.", "": "too late."})
    assert run_check(check, lambda x: x, PUBLIC_SEED).message.endswith("Hint: about y.")


def test_a_changed_argument_is_named_before_the_values_it_spoils() -> None:
    got = {"y": 1.0, "x left unchanged": torch.ones(3)}
    expected = {"y": 2.0, "x left unchanged": torch.ones(3) + 1e-6}
    verdict = compare(got, expected, Tolerance(atol=0.1), "look.")
    assert verdict.message == "x left unchanged: it was changed. Hint: look."
    verdict = compare(got | {"x left unchanged": expected["x left unchanged"]}, expected, EXACT)
    assert verdict.message.startswith("y: the value differs")


def test_an_implementation_that_changes_its_input_is_compared_with_the_original() -> None:
    assert not run_check(DOUBLE, lambda x: x.fill(0) or x, PUBLIC_SEED).ok


def test_a_stub_is_told_apart_from_an_error() -> None:
    def stub(x: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    assert "not written yet" in run_check(DOUBLE, stub, 1).message
    message = run_check(DOUBLE, lambda x: 1 / 0, 1).message
    assert "raised ZeroDivisionError" in message
    assert "of test_core.py: `message = run_check(" in message


def test_what_no_line_of_the_learners_raised_is_not_blamed_on_them() -> None:
    check = replace(DOUBLE, drive=lambda impl, inputs: explain_me(impl), expect=lambda inputs: {})
    assert run_check(check, lambda x: x, 1).message == "double: expected a list, got an array."
    message = explain("double", AttributeError("'list' object has no attribute 'shape'"))
    assert message.startswith("calling double, or using what it returned, failed with Attribute")


def explain_me(impl: object) -> dict[str, Any]:
    raise ContractError("double: expected a list, got an array")


def test_the_line_of_a_notebook_cell_is_found_below_a_librarys_frames() -> None:
    source = "import json\ndef double(x):\n    return json.loads('{')\n"
    namespace: dict[str, Any] = {}
    exec(compile(source, "/tmp/ipykernel_1/2.py", "exec"), namespace)
    assert "at line 3 of the cell" in run_check(DOUBLE, namespace["double"], 1).message


def test_a_notebook_shows_the_message_and_no_frame(capsys: pytest.CaptureFixture[str]) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell(history_manager=None)
    shell.user_ns["check"] = LabChecks(LAB)
    assert not shell.run_cell("check('double', lambda x: 3 * x)").success
    shown = capsys.readouterr().out
    assert shown.startswith("CheckFailed: double: y: 5 of 5")
    assert "learner.py" not in shown


def test_the_notebook_line_is_silent_or_raises_one_message() -> None:
    check = LabChecks(LAB)
    check("double", lambda x: 2 * x)
    check.hidden("double", lambda x: 2 * x)
    with pytest.raises(CheckFailed, match="double: y: 5 of 5") as caught:
        check("double", lambda x: 3 * x)
    assert caught.value._render_traceback_() == [f"CheckFailed: {caught.value}"]


def test_hard_coded_public_answers_fail_the_hidden_line() -> None:
    answer = 2 * np.random.default_rng(PUBLIC_SEED).standard_normal(5)
    check = LabChecks(LAB)
    check("double", lambda x: answer)
    with pytest.raises(CheckFailed):
        check.hidden("double", lambda x: answer)


def test_keys_must_match() -> None:
    assert "expected results ['a']" in compare({"b": 1}, {"a": 1}, Tolerance()).message
    assert "expected a dict" in compare([1], {"a": 1}, Tolerance()).message


def test_names_and_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="no check 'treble'; it has double"):
        LAB.check("treble")
    with pytest.raises(ValueError, match="must differ"):
        Lab(name="lab", checks=(DOUBLE, DOUBLE), teaches=())
    with pytest.raises(ValueError, match="no checks for a lab called 'lab99'"):
        load_lab("lab99")
