"""The checks of lab 12: expectations, points and hints. Runs outside the sandbox only."""

from functools import partial

from grader.checks.core import Arrays, Lab
from grader.checks.exercise import exercise
from grader.checks.values import Tolerance
from grader.labs.lab12_multi_adapter_serving import inputs
from grader.labs.lab12_multi_adapter_serving.hints import HINTS
from grader.labs.lab12_multi_adapter_serving.requests import handle_inputs

FLOAT32 = Tolerance(rtol=1e-4, atol=1e-4, reason="float32 rounding of sums of terms up to 30")
FLOAT64 = Tolerance(rtol=1e-12, reason="float64 rounding of one division")
LAB_NAME = "lab12_multi_adapter_serving"


def _faults(drawn: Arrays) -> Arrays:
    """The faults that were planted."""
    return {
        f"server {i + 1}": inputs.FAULTS[case["fault"]] for i, case in enumerate(drawn["cases"])
    }


_check = partial(exercise, LAB_NAME, hints=HINTS, tolerance=FLOAT32)

LAB = Lab(
    name=LAB_NAME,
    teaches=("labkit.inference.adapters", "labkit.serving"),
    forbids=("peft",),
    files=("envelope.json",),
    checks=(
        _check(
            "adapter_costs", 3, inputs.costs_inputs,
            "an adapter has R (I + O) numbers a projection, in every layer.",
            tolerance=FLOAT64,
        ),
        _check(
            "adapter_manager", 8, inputs.manager_inputs,
            "replay the calls on paper: who is live, who drains, what does each name mean?",
            symbol="AdapterManager",
        ),
        _check(
            "add_grouped", 6, inputs.grouped_inputs,
            "y_i + scaling (x_i A^T) B^T with the factors of slot i, counted from 1.",
        ),
        _check(
            "fuse_projections", 4, inputs.fuse_inputs,
            "A's rows one below the other; B's block n at rows of output n, columns of rank n.",
        ),
        _check(
            "plan_batches", 5, inputs.batches_inputs,
            "at which moments can the answer to \"may a batch start now?\" change?",
        ),
        _check(
            "handle", 6, handle_inputs,
            "path, method, body, fields, then the adapter: which answer comes first?",
        ),
        _check(
            "diagnose", 5, inputs.diagnose_inputs,
            "one script for each fault, on which only that fault changes an answer.",
            expect=_faults,
        ),
    ),
)  # fmt: skip
