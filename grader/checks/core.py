"""One definition of an exercise's check, used by the tests, the notebook and the grader.

`inputs(rng)` makes data, `drive(impl, data)` calls the implementation and returns plain values, and
`expect(data)` computes what should come back from labkit. The notebook runs all three in one
process; the grader runs only `drive` beside the student's code and compares outside. What in the
data would be an answer, `hand_over(data)` replaces by functions that stay outside too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from grader.checks.explain import explain
from grader.checks.values import Tolerance, describe, difference

Arrays = dict[str, Any]
Drive = Callable[[Any, Arrays], Arrays]
HandOver = Callable[[Arrays], Arrays]
PUBLIC_SEED = 20_240_601
HIDDEN_SEEDS = (7_919, 104_729, 1_299_709)
EXACT = Tolerance()
UNCHANGED = "left unchanged"  # ends the key under which an argument is returned


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether a check passed, and if not a message the student can act on."""

    ok: bool
    message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One exercise's check.

    Attributes:
        name: The solution cell's `grade_id`, and the stub's name unless `symbol` says otherwise.
        points: Points of the public and the hidden cell together.
        inputs: Makes the data from a numpy generator; several shapes, all dimensions different.
        drive: Calls the implementation; lives in `drive.py`, imports only numpy and torch. It
            returns what came, not whether that is right.
        reference: Imports labkit and returns an implementation that `drive` accepts.
        hint: One sentence naming the property to look at, never a value.
        hints: Sentences for findings of their own: the first whose words are in the finding's key
            is shown in place of `hint`.
        expect: Expected values; by default what `drive` returns for the reference.
        hand_over: Makes of the inputs what `drive` is given, if that is not the inputs themselves.
        symbol: The name the student defines.
        seeds_hidden: How many fresh seeds the hidden cell stands for.
        needs: Hardware without which it is BLOCKED and not graded: "cuda" or nothing.
    """

    name: str
    points: int
    inputs: Callable[[np.random.Generator], Arrays]
    drive: Drive
    reference: Callable[[], Any]
    hint: str
    tolerance: Tolerance = EXACT
    expect: Callable[[Arrays], Arrays] | None = None
    hand_over: HandOver | None = None
    symbol: str = ""
    seeds_hidden: int = 3
    needs: str = ""
    hints: Mapping[str, str] = field(default_factory=dict)

    @property
    def implementation(self) -> str:
        return self.symbol or self.name

    def hint_for(self, key: str) -> str:
        """The hint for the finding called `key`."""
        return next((text for words, text in self.hints.items() if words in key), self.hint)

    def verdict(self, got: Any, expected: Arrays) -> "Verdict":
        """Compare what an implementation returned with what it should have."""
        return compare(got, expected, self.tolerance, self.hint_for)

    def expected(self, inputs: Arrays) -> Arrays:
        """What a right implementation returns for these inputs."""
        if self.expect is not None:
            return self.expect(inputs)
        return self.drive(self.reference(), self._handed_over(inputs))

    def question(self, seed: int) -> Arrays:
        """What `drive` is given beside the implementation; new arrays at every call."""
        return self._handed_over(self.inputs(np.random.default_rng(seed)))

    def _handed_over(self, inputs: Arrays) -> Arrays:
        return inputs if self.hand_over is None else self.hand_over(inputs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lab:
    """A lab and its limits.

    Attributes:
        teaches: labkit modules that are the answer key; they do not exist in the sandbox.
        forbids: Other packages that do not exist in the sandbox.
        files: Files beside the notebook that are released with it.
    """

    name: str
    checks: tuple[Check, ...]
    teaches: tuple[str, ...]
    forbids: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    time_limit_s: float = 120.0
    question_limit_s: float = 10.0
    memory_bytes: int = 3 * 2**30

    def __post_init__(self) -> None:
        names = [check.name for check in self.checks]
        if len(set(names)) != len(names):
            raise ValueError(f"{self.name}: check names must differ, got {names}")
        if not self.question_limit_s <= self.time_limit_s:
            raise ValueError(
                f"question_limit_s={self.question_limit_s} exceeds time_limit_s={self.time_limit_s}"
            )

    def check(self, name: str) -> Check:
        """Return the check called `name`; ValueError lists the names there are."""
        for check in self.checks:
            if check.name == name:
                return check
        names = ", ".join(check.name for check in self.checks)
        raise ValueError(f"{self.name} has no check {name!r}; it has {names}")


def load_lab(name: str) -> Lab:
    """Import `grader.labs.<name>.check` and return its LAB."""
    try:
        lab = import_module(f"grader.labs.{name}.check").LAB
    except ModuleNotFoundError as error:
        if error.name not in (f"grader.labs.{name}", f"grader.labs.{name}.check"):
            raise
        raise ValueError(f"no checks for a lab called {name!r}: is the name right?") from None
    assert isinstance(lab, Lab)
    return lab


def hand_over(lab: str, name: str) -> HandOver | None:
    """What `HAND_OVER` of the lab's `outside.py` has for a check; a lab may have no such module."""
    module = f"grader.labs.{lab}.outside"
    if find_spec(module) is None:
        return None
    found: HandOver | None = import_module(module).HAND_OVER.get(name)
    return found


def compare(
    got: Any, expected: Arrays, tolerance: Tolerance, hint: str | Callable[[str], str] = ""
) -> Verdict:
    """Compare what an implementation returned with what it should have, key by key.

    Keys are taken in the order of `expected`, but those ending in "left unchanged" first: an
    argument that was changed explains why later values differ. They have it as it is afterwards,
    and no tolerance.
    """
    if type(got) is not dict:
        return Verdict(ok=False, message=f"expected a dict of results, got {describe(got)}")
    if set(got) != set(expected):
        return Verdict(ok=False, message=f"expected results {sorted(expected)}, got {sorted(got)}")
    for key in sorted(expected, key=lambda key: not key.endswith(UNCHANGED)):
        if clause := _clause(key, got[key], expected[key], tolerance):
            text = hint if isinstance(hint, str) else hint(key)
            tail = f" Hint: {text}" if text else ""
            return Verdict(ok=False, message=f"{key}: {clause}.{tail}")
    return Verdict(ok=True)


def _clause(key: str, got: object, expected: object, tolerance: Tolerance) -> str:
    """Say how a value differs from the expected one; empty when it does not."""
    if key.endswith(UNCHANGED):
        return "it was changed" if difference(got, expected, EXACT) else ""
    return difference(got, expected, tolerance)


def run_check(check: Check, impl: Any, seed: int) -> Verdict:
    """Run one check on one seed in this process; never raises for what the implementation does."""
    inputs = check.inputs(np.random.default_rng(seed))
    expected = check.expected(inputs)
    try:
        got = check.drive(impl, check.question(seed))
    except Exception as error:
        return Verdict(ok=False, message=explain(check.implementation, error))
    return check.verdict(got, expected)


def verdicts(check: Check, impl: Any, seeds: tuple[int, ...]) -> Verdict:
    """The first failing verdict over the seeds, or a pass."""
    for seed in seeds:
        verdict = run_check(check, impl, seed)
        if not verdict.ok:
            return verdict
    return Verdict(ok=True)
