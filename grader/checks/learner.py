"""What a lab notebook calls: `check = lab("lab03_lora")`, then `check("lora_delta", lora_delta)`.

Silent on success. On failure a `CheckFailed` whose text is the message and whose traceback IPython
shows as that one message. Under nbgrader the same line is the graded cell.
"""

from typing import Any

from grader.checks.core import HIDDEN_SEEDS, PUBLIC_SEED, Lab, load_lab, verdicts


class CheckFailed(AssertionError):  # noqa: N818 - read aloud by learners, not caught by programs
    """An exercise's check did not pass; the text says what was expected and what came."""

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: show the message instead of frames the learner did not write."""
        return [f"CheckFailed: {self}"]


class LabChecks:
    """The checks of one lab, callable by exercise name."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def __call__(self, name: str, impl: Any) -> None:
        """Check an implementation on the public seed; raises CheckFailed."""
        __tracebackhide__ = True
        self._run(name, impl, (PUBLIC_SEED,))

    def hidden(self, name: str, impl: Any) -> None:
        """Check an implementation on other seeds; raises CheckFailed."""
        __tracebackhide__ = True
        self._run(name, impl, HIDDEN_SEEDS[: self._lab.check(name).seeds_hidden])

    def _run(self, name: str, impl: Any, seeds: tuple[int, ...]) -> None:
        __tracebackhide__ = True
        verdict = verdicts(self._lab.check(name), impl, seeds)
        if not verdict.ok:
            raise CheckFailed(f"{name}: {verdict.message}") from None


def lab(name: str) -> LabChecks:
    """Load a lab's checks; ValueError when there is no such lab."""
    return LabChecks(load_lab(name))
