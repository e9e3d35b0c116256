"""The checks of lab 04: expectations, points and hints. Runs outside the sandbox only."""

from functools import partial

from grader.checks.core import Arrays, Lab
from grader.checks.exercise import exercise
from grader.checks.values import Tolerance
from grader.labs.lab04_qlora import inputs
from grader.labs.lab04_qlora.hints import HINTS

FLOAT32 = Tolerance(rtol=1e-4, atol=1e-5, reason="float32 rounding of sums of terms up to 10")
LEVELS = Tolerance(rtol=1e-5, atol=1e-6, reason="float32 rounding of numbers up to 1")
SCALES = Tolerance(rtol=1e-5, atol=1e-5, reason="float32 rounding of a mean of numbers up to 10")
ONCE = Tolerance(rtol=1e-6, reason="one rounding of a product in float32")
CHANGES = Tolerance(rtol=1e-4, atol=1e-7, reason="float32 rounding of an update")
FACTORS = Tolerance(rtol=1e-3, atol=1e-4, reason="float32 rounding of a decomposition")


def _faults(planted: Arrays) -> Arrays:
    """The faults that were planted."""
    return {
        f"layer {i + 1}": inputs.FAULTS[case["fault"]] for i, case in enumerate(planted["cases"])
    }


_check = partial(exercise, "lab04_qlora", hints=HINTS, tolerance=FLOAT32)

LAB = Lab(
    name="lab04_qlora",
    teaches=(
        "labkit.quant.nf4",
        "labkit.quant.blockwise",
        "labkit.quant.packing",
        "labkit.quant.linear",
        "labkit.tuning.qlora",
        "labkit.tuning.adam8bit",
        "labkit.tuning.loftq",
    ),
    forbids=("bitsandbytes", "peft"),
    files=("envelope.json",),
    checks=(
        _check(
            "normal_float", 4, inputs.normal_float,
            "levels are quantiles of equally spaced probabilities, divided by the largest.",
            tolerance=LEVELS,
        ),
        _check(
            "pack_weight", 3, inputs.pack_weight,
            "one long vector, blocks scaled to [-1, 1], nearest levels, two to a byte.",
            tolerance=ONCE,
        ),
        _check(
            "unpack_weight", 3, inputs.unpack_weight,
            "the high half is the first of two; level times the block's scale.",
            tolerance=ONCE,
        ),
        _check(
            "double_quantize", 4, inputs.double_quantize,
            "take the mean of all scales off, then scale blocks and find the nearest levels.",
            tolerance=SCALES,
        ),
        _check(
            "frozen_product", 5, inputs.frozen_product,
            "make the weight, use it, forget it; in backward once more.",
            symbol="FrozenProduct",
        ),
        _check(
            "adam8bit_update", 4, inputs.adam8bit_update,
            "unpack both moments, make Adam's step in float32, pack them again.",
            tolerance=CHANGES,
        ),
        _check(
            "loftq", 4, inputs.loftq,
            "quantize what the factors do not explain, then decompose what is lost.",
            tolerance=FACTORS,
        ),
        _check(
            "memory_plan", 3, inputs.memory_plan,
            "count matrix by matrix, and round every part up by itself.",
            tolerance=ONCE,
        ),
        _check(
            "diagnose", 6, inputs.diagnose,
            "feed weights that four bits keep, and one probe for each fault.",
            expect=_faults,
        ),
    ),
)  # fmt: skip
