"""The checks of lab 15: data, expectations, points and hints. Runs outside the sandbox only."""

from functools import partial

import numpy as np
import torch

from grader.checks.core import UNCHANGED, Arrays, Lab
from grader.checks.exercise import every_kind, exercise, normal
from grader.checks.values import Tolerance

FLOAT32 = Tolerance(rtol=1e-5, atol=1e-8, reason="float32 rounding of a division")
SOLVED = Tolerance(rtol=1e-3, atol=1e-4, reason="float32 solution of a well-conditioned system")


def _group_inputs(rng: np.random.Generator) -> Arrays:
    """A weight with a group of zeros; groups of one sign, far from zero; bfloat16; many widths."""
    size, O = int(rng.integers(9, 15)), int(rng.integers(5, 8))  # noqa: E741
    mixed = normal(rng, O, 3 * size) * torch.logspace(-2, 1, O)[:, None]
    mixed[1, size : 2 * size] = 0
    signed = normal(rng, O + 1, 2 * size).abs() + 0.7
    signed[:, size:] *= -1
    cases = [
        {"kind": "ordinary", "weight": mixed, "bits": 4, "group_size": size},
        {
            "kind": "one-signed",
            "weight": signed,
            "bits": int(rng.choice((3, 5))),
            "group_size": size,
        },
        {
            "kind": "bfloat16",
            "weight": normal(rng, O, size).bfloat16(),
            "bits": 8,
            "group_size": size,
        },
    ]
    return {"cases": cases}


def _pack_inputs(rng: np.random.Generator) -> Arrays:
    cases = []
    for bits in (4, 3, int(rng.choice((2, 5, 6, 7)))):
        n = 8 * int(rng.integers(2, 5)) + int(rng.integers(1, 8))
        codes = torch.from_numpy(rng.integers(0, 2**bits, size=n).astype(np.uint8))
        codes[:2] = torch.tensor([2**bits - 1, 1], dtype=torch.uint8)
        cases.append({"codes": codes, "bits": bits})
    return {"cases": cases}


def _codebook_inputs(rng: np.random.Generator) -> Arrays:
    """Sixteen uneven levels, no two alike, and a weight of no whole number of blocks."""
    block_size, O, I = int(rng.integers(10, 15)), 7, int(rng.integers(31, 37))  # noqa: E741
    weight = normal(rng, O, I) * torch.logspace(-2, 1, O)[:, None]
    if weight.numel() % block_size == 0:
        block_size += 1 if weight.numel() % (block_size + 1) else 2
    weight.view(-1)[block_size : 2 * block_size] = 0
    inner = np.sort(rng.uniform(-0.95, 0.95, size=13))
    levels = np.sort(np.concatenate((inner, [-1.0, 0.0, 1.0]))).astype(np.float32)
    return {"weight": weight, "levels": torch.from_numpy(levels), "block_size": block_size}


def _repair_inputs(rng: np.random.Generator) -> Arrays:
    """Correlated inputs, so that every column can say something about every other."""
    O, I, N = int(rng.integers(4, 7)), int(rng.integers(11, 15)), 60  # noqa: E741
    x = normal(rng, N, I) @ (torch.eye(I) + 0.4 * normal(rng, I, I))
    weight = normal(rng, O, I)
    return {
        "weight": weight,
        "hessian": x.T @ x / N + 0.2 * torch.eye(I),
        "rounded": weight.mean(1) + 0.5 * normal(rng, O),
        "columns": {"first": 0, "middle": int(rng.integers(3, 8)), "last": I - 1},
    }


def _wanda_inputs(rng: np.random.Generator) -> Arrays:
    """Channels of unlike size, some of them large at a few tokens only."""
    n, m = ((2, 5), (1, 3), (3, 7))[int(rng.integers(3))]
    O, I, N = 9, m * int(rng.integers(4, 7)), 31  # noqa: E741
    x = normal(rng, N, I) * torch.from_numpy(rng.lognormal(0, 1, I).astype(np.float32))
    x[3, ::3] *= 25
    return {"weight": normal(rng, O, I), "x": x, "pattern": [n, m]}


def _diagnose_inputs(rng: np.random.Generator) -> Arrays:
    faults = every_kind(rng, range(5), more=4)
    return {"cases": [{"fault": fault, "group_size": int(rng.integers(6, 12))} for fault in faults]}


def _faults(inputs: Arrays) -> Arrays:
    """The faults that were planted."""
    names = ("healthy", "wrong_axis", "zero_clipped", "codes_wrapped", "groups_mixed")
    return {f"quantizer {i}": names[case["fault"]] for i, case in enumerate(inputs["cases"])}


CHANGED = "work on a copy: the caller still needs its tensor."
HINTS: dict[str, dict[str, str]] = {
    "quantize_groups": {
        "raises ValueError": "compare I with the group size before reshaping.",
        "bfloat16": "go to float32 before the first subtraction.",
        "one-signed": "where all weights are positive, the grid still begins at zero.",
    },
    "pack_codes": {},
    "encode_codebook": {
        "largest magnitude": "blocks run on across rows, and the last one may be short.",
        "weights times levels": "search the sorted midpoints instead.",
    },
    "repair": {
        "first column": "set the gradient with respect to the free columns to zero.",
    },
    "wanda_mask": {
        "scores are equal": "choose by rank; a threshold keeps every tie.",
    },
    "diagnose": {},
}
_check = partial(
    exercise,
    "lab15_quantization",
    hints={name: {UNCHANGED: CHANGED, **texts} for name, texts in HINTS.items()},
)

LAB = Lab(
    name="lab15_quantization",
    teaches=("labkit.quant", "labkit.compression"),
    forbids=("bitsandbytes",),
    files=("envelope.json",),
    checks=(
        _check(
            "quantize_groups", 6, _group_inputs,
            "every grid contains zero, and 2^bits codes have 2^bits - 1 steps between them.",
            tolerance=FLOAT32,
        ),
        _check(
            "pack_codes", 5, _pack_inputs,
            "write all bits one after another, lowest first; only then cut the stream into bytes.",
        ),
        _check(
            "encode_codebook", 5, _codebook_inputs,
            "15 midpoints part 16 levels; what does dividing a block of zeros give?",
            tolerance=FLOAT32,
        ),
        _check(
            "repair", 6, _repair_inputs,
            "columns before this one are final: only this one and those after it may enter.",
            tolerance=SOLVED,
        ),
        _check(
            "wanda_mask", 5, _wanda_inputs,
            "one norm for each input feature, over all tokens; then choose within m neighbours.",
        ),
        _check(
            "diagnose", 6, _diagnose_inputs,
            "give each fault a weight that only it would spoil: by sign, by row, by group.",
            expect=_faults,
        ),
    ),
)  # fmt: skip
