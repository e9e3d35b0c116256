"""The checks of lab 03: data, expectations, points and hints. Runs outside the sandbox only."""

import math
from functools import partial

import numpy as np
import torch

from grader.checks.core import Arrays, Lab
from grader.checks.exercise import every_kind, exercise, normal
from grader.checks.values import Tolerance
from grader.labs.lab03_lora import hints

# atol is for sums that nearly cancel: the rounding of their terms stays, whatever the sum is.
FLOAT32 = Tolerance(rtol=1e-4, atol=1e-5, reason="float32 rounding of sums of terms up to 10")
LARGE = Tolerance(rtol=1e-4, atol=1e-3, reason="float32 rounding of sums of terms up to 1000")
ROUNDED = Tolerance(rtol=2e-2, atol=1e-4, reason="one rounding to the weight's dtype")

NUMBERS = 2_500  # more than the largest model has parameters with every layer wrapped


def _sizes(rng: np.random.Generator) -> tuple[int, int, int]:
    """Rank, input and output width, all different, so that no axis can stand in for another."""
    return int(rng.integers(3, 6)), int(rng.integers(17, 24)), int(rng.integers(9, 14))


def _delta_inputs(rng: np.random.Generator) -> Arrays:
    R, I, O = _sizes(rng)  # noqa: E741
    A, B = normal(rng, R, I), normal(rng, O, R)
    return {"lora_A": A, "lora_B": B, "alpha": float(rng.uniform(7, 29))}


def _linear_inputs(rng: np.random.Generator) -> Arrays:
    R, I, O = _sizes(rng)  # noqa: E741
    return {
        "weight": normal(rng, O, I),
        "bias": normal(rng, O),
        "rank": R,
        "alpha": float(rng.uniform(7, 29)),
        "lora_A": normal(rng, R, I),
        "lora_B": normal(rng, O, R),
        "x": normal(rng, 2, 7, I),
        "probe": normal(rng, 2, 7, O),
        "other_weight": normal(rng, O, I),
    }


def _apply_inputs(rng: np.random.Generator) -> Arrays:
    names = ["q_proj", "up_proj"] if rng.random() < 0.5 else ["v_proj", "q_proj"]
    D = int(rng.integers(5, 8))
    return {
        "width": D,
        "ffn_width": int(rng.integers(9, 13)),
        "layers": int(rng.integers(2, 4)),
        "targets": names,
        "numbers": 0.3 * normal(rng, NUMBERS),
        "x": normal(rng, 3, D),
        "probe": normal(rng, 3, D),
    }


def _merge_inputs(rng: np.random.Generator) -> Arrays:
    """The bfloat16 weight nearly cancels the update: what is left float32 alone keeps."""
    R, I, O = _sizes(rng)  # noqa: E741
    A, B, scaling = normal(rng, R, I), normal(rng, O, R), float(rng.uniform(1.2, 3.4))
    return {
        "lora_A": A,
        "lora_B": B,
        "scaling": scaling,
        "weight_float32": normal(rng, O, I),
        "weight_bfloat16": (-scaling * (B @ A)).bfloat16(),
        "merged": normal(rng, O, I),
    }


FAULTS = (
    "healthy", "mirrored", "both zero", "both random", "leak", "weight trains", "bias trains",
    "base trains", "scale",
)  # fmt: skip
TRAINS = {"weight trains": ["weight"], "bias trains": ["bias"], "base trains": ["weight", "bias"]}


def _diagnose_case(rng: np.random.Generator, fault: str) -> Arrays:
    """One layer at its start; the fault's name is not part of what is handed over."""
    R, I, O = _sizes(rng)  # noqa: E741
    alpha = float(rng.uniform(7, 29))
    wrong = (alpha, 1.0 / R, math.sqrt(R) / alpha, alpha / math.sqrt(R))
    A_is_zero = fault in ("both zero", "mirrored")
    B_is_random = fault in ("both random", "mirrored")
    return {
        "weight": normal(rng, O, I),
        "bias": normal(rng, O),
        "lora_A": torch.zeros(R, I) if A_is_zero else normal(rng, R, I),
        "lora_B": normal(rng, O, R) if B_is_random else torch.zeros(O, R),
        "trains": TRAINS.get(fault, []),
        "alpha": alpha,
        "scale": float(rng.choice(wrong)) if fault == "scale" else alpha / R,
        "leak": 0.5 if fault == "leak" else 0.0,
    }


def _diagnose_inputs(rng: np.random.Generator) -> Arrays:
    faults = every_kind(rng, FAULTS, more=3)
    return {"cases": [_diagnose_case(rng, fault) for fault in faults]}


def _train_inputs(rng: np.random.Generator) -> Arrays:
    """Micro-batches of different sizes and numbers of counted tokens; of the last none counts.

    Most tokens follow from the one before, and the head knows it: without the shift the loss is
    another.
    """
    V, D = 23, 11
    ids, labels = [], []
    for rows, length, kept in ((1, 13, 0.2), (3, 9, 0.9), (2, 6, 0.5), (2, 5, 0.0)):
        chain = rng.integers(0, V, size=(rows, 1)) + 7 * np.arange(length)
        noise = rng.integers(0, V, size=(rows, length))
        tokens = torch.from_numpy(np.where(rng.random((rows, length)) < 0.3, noise, chain) % V)
        mask = torch.from_numpy(rng.random((rows, length)) < kept)
        mask[:, 1] = kept > 0
        ids.append(tokens)
        labels.append(torch.where(mask, tokens, torch.full_like(tokens, -100)))
    embedding = normal(rng, V, D)
    return {
        "ids": ids,
        "labels": labels,
        "embedding": embedding,
        "head": 0.3 * embedding.roll(7, dims=0) + 0.3 * normal(rng, V, D),
        "lrs": [0.7, 0.4],
        "clip_norm": float(rng.uniform(0.1, 0.2)),
    }


_check = partial(exercise, "lab03_lora", tolerance=FLOAT32, hints=hints.HINTS)

LAB = Lab(
    name="lab03_lora",
    teaches=("labkit.tuning",),
    forbids=("peft",),
    files=("envelope.json",),
    checks=(
        _check(
            "lora_delta", 4, _delta_inputs,
            "which factor maps from the input width, and what does the rank divide?",
            tolerance=LARGE,
        ),
        _check(
            "lora_linear", 7, _linear_inputs,
            "compare with base(x) + s (x A^T) B^T, s = alpha / R, term by term.",
            symbol="LoraLinear",
            tolerance=LARGE,
        ),
        _check(
            "apply_lora", 6, _apply_inputs,
            "compare the last part of a module's name, wrap only nn.Linear, freeze all the rest.",
        ),
        _check(
            "merge_weight", 4, _merge_inputs,
            "compute and add the update in float32, then round once to the weight's dtype.",
            tolerance=ROUNDED,
        ),
        _check(
            "diagnose", 6, _diagnose_inputs,
            "judge the layer by each symptom in turn: base, output, factors, scaling.",
        ),
        _check(
            "train_step", 5, _train_inputs,
            "one mean over all counted tokens of all micro-batches, labels one step ahead.",
        ),
    ),
)  # fmt: skip
