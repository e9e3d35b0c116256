"""The checks of lab 05: data, expectations, points and hints. Runs outside the sandbox only."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from grader.checks.core import Arrays, Lab
from grader.checks.exercise import every_kind, exercise, normal
from grader.checks.values import Tolerance
from grader.labs.lab05_peft_methods.hints import HINTS

# atol is for sums that nearly cancel: the rounding of their terms stays, whatever the sum is.
FLOAT32 = Tolerance(rtol=1e-4, atol=1e-4, reason="float32 rounding of sums of terms up to 100")
LARGE = Tolerance(rtol=1e-4, atol=1e-3, reason="float32 rounding of sums of terms up to 1000")
SHARP = Tolerance(rtol=1e-3, atol=2e-2, reason="float32 rounding of scores up to 1000")
FAULTS = ("healthy", "dead", "dropout_on", "bias_lost", "leaks_future")
METHODS = ("bitfit", "prompt", "prefix", "houlsby", "parallel", "ia3", "dora", "adalora")


def _whole(rng: np.random.Generator, low: int, high: int, *shape: int) -> Tensor:
    """Whole numbers in [low, high) of either sign."""
    sign = rng.choice([-1, 1], size=shape)
    return torch.from_numpy(sign * rng.integers(low, high, size=shape)).float()


def _adapter_inputs(rng: np.random.Generator) -> Arrays:
    """Five widths, all different; and whole numbers of more bits than bfloat16 has."""
    I, O, M, R = int(rng.integers(9, 12)), int(rng.integers(14, 18)), 7, 5  # noqa: E741
    width, outputs, inner = 6, 8, 4
    return {
        "first": normal(rng, O, I),
        "bias": normal(rng, O),
        "second": normal(rng, M, O),
        "x": normal(rng, 2, 6, I),
        "probe sequential": normal(rng, 2, 6, O),
        "probe parallel": normal(rng, 2, 6, M),
        "down.weight sequential": normal(rng, R, O),
        "down.weight parallel": normal(rng, R, I),
        "down.bias": normal(rng, R),
        "up.weight sequential": normal(rng, O, R),
        "up.weight parallel": normal(rng, M, R),
        "up.bias sequential": normal(rng, O),
        "up.bias parallel": normal(rng, M),
        "scaling": float(rng.uniform(2, 5)),
        "seed": int(rng.integers(1, 1000)),
        "exact": {
            "x": _whole(rng, 1, 3, 3, width),
            "down.weight": _whole(rng, 257, 511, inner, width),
            "down.bias": _whole(rng, 1, 200, inner),
            "up.weight": _whole(rng, 257, 511, outputs, inner),
            "up.bias": _whole(rng, 1, 200, outputs),
        },
    }


def _prompt_inputs(rng: np.random.Generator) -> Arrays:
    """Rows of three lengths; one learns its first token, which only virtual ones precede."""
    B, T, P = 3, int(rng.integers(7, 10)), int(rng.integers(3, 6))
    D, V = 11, 13
    lengths = torch.tensor([T, T - 3, T - 1])
    mask = torch.arange(T) < lengths[:, None]
    learnt = mask & (torch.from_numpy(rng.random((B, T))) < 0.6)
    learnt[:, 0] = torch.tensor([False, True, False])
    learnt[:, 2] = True
    labels = torch.from_numpy(rng.integers(0, V, size=(B, T)))
    return {
        "rows": normal(rng, P, D),
        "embeddings": normal(rng, B, T, D),
        "mask": mask,
        "labels": labels.masked_fill(~learnt, -100),
        "places": normal(rng, P + T, D),
        "head": normal(rng, D, V) / 2,
    }


def _prefix_inputs(rng: np.random.Generator) -> Arrays:
    """P + T is the length of no other axis, alone or flattened."""
    P, T = ((5, 7), (4, 9), (5, 8))[int(rng.integers(3))]
    B, H, K = 2, 3, 16
    return {
        "q": 1.5 * normal(rng, B, H, T, K),
        "k": normal(rng, B, H, T, K),
        "v": normal(rng, B, H, T, K),
        "prefix_k": normal(rng, H, P, K),
        "prefix_v": 1 + normal(rng, H, P, K),
        "probe": normal(rng, B, H, T, K),
        "sharper": 100.0,
    }


def _ia3_inputs(rng: np.random.Generator) -> Arrays:
    I, O = int(rng.integers(9, 12)), int(rng.integers(14, 18))  # noqa: E741
    return {
        "weight": normal(rng, O, I).bfloat16().float(),
        "bias": normal(rng, O).bfloat16().float(),
        "output_scale": 1 + normal(rng, O),
        "input_scale": 1 + normal(rng, I),
        "x": normal(rng, 2, 6, I),
        "probe": normal(rng, 2, 6, O),
    }


def _dora_inputs(rng: np.random.Generator) -> Arrays:
    R, I, O = 3, int(rng.integers(9, 12)), int(rng.integers(14, 18))  # noqa: E741
    return {
        "weight": normal(rng, O, I),
        "lora_A": normal(rng, R, I),
        "lora_B": normal(rng, O, R),
        "magnitude": 1 + normal(rng, O).abs(),
        "scaling": float(rng.uniform(0.4, 0.9)),
        "grad": normal(rng, O, I),
    }


def _allocation_inputs(rng: np.random.Generator) -> Arrays:
    """Three layers of unequal shape; gradients of two steps; a budget of about half."""
    R = 12
    shapes = [(13, 21), (30, 15), (14, 17)]
    loud = [float(x) for x in rng.uniform(0.7, 1.5, size=len(shapes))]
    sizes = [shapes[i] for i in rng.permutation(len(shapes))]

    def triples(factor: float) -> list[tuple[Tensor, ...]]:
        return [
            (
                factor * s * normal(rng, R, I),
                factor * s * normal(rng, R),
                factor * s * normal(rng, O, R),
            )
            for s, (I, O) in zip(loud, sizes, strict=True)  # noqa: E741
        ]

    return {
        "layers": triples(1.0),
        "gradients": [triples(0.5), triples(1.5)],
        "beta_1": float(rng.uniform(0.7, 0.9)),
        "beta_2": float(rng.uniform(0.3, 0.6)),
        "budget": 3 * int(rng.integers(5, 8)),
    }


def _count_inputs(rng: np.random.Generator) -> Arrays:
    """Models in which no two widths agree, so that no letter can stand in for another."""
    models, sizes = [], []
    for _ in range(3):
        G, per, K = int(rng.integers(2, 4)), int(rng.integers(2, 4)), 2 * int(rng.integers(3, 6))
        models.append(
            {
                "L": int(rng.integers(2, 5)),
                "D": 7 * int(rng.integers(5, 9)),
                "F": 11 * int(rng.integers(8, 12)),
                "H": G * per,
                "G": G,
                "K": K,
            }
        )
        sizes.append(int(rng.integers(2, 6)))
    return {"methods": list(METHODS), "models": models, "sizes": sizes}


def _diagnose_inputs(rng: np.random.Generator) -> Arrays:
    cases = []
    for fault in every_kind(rng, range(len(FAULTS)), more=4):
        width, seed = int(rng.integers(6, 10)), int(rng.integers(1, 2**31))
        cases.append({"fault": fault, "width": width, "seed": seed})
    return {"cases": cases}


def _faults(inputs: Arrays) -> Arrays:
    """The faults that were planted."""
    return {f"layer {i + 1}": FAULTS[case["fault"]] for i, case in enumerate(inputs["cases"])}


_check = partial(exercise, "lab05_peft_methods", hints=HINTS, tolerance=FLOAT32)

LAB = Lab(
    name="lab05_peft_methods",
    teaches=("labkit.tuning",),
    forbids=("peft",),
    files=("envelope.json",),
    checks=(
        _check(
            "adapter", 5, _adapter_inputs,
            "write down z, then base(x) + s (W_up relu(W_down z + b_down) + b_up).",
            symbol="Adapter",
            tolerance=LARGE,
        ),
        _check(
            "prompted_loss", 5, _prompt_inputs,
            "virtual tokens are tokens: of the mask, of the positions, of the logits.",
        ),
        _check(
            "prefix_attention", 5, _prefix_inputs,
            "two softmaxes, one over the prefix and one over the text so far, then the mixture.",
            tolerance=SHARP,
        ),
        _check(
            "ia3_linear", 4, _ia3_inputs,
            "outputs are scaled with their bias; inputs are scaled before the layer.",
            symbol="Ia3Linear",
        ),
        _check(
            "dora_gradients", 4, _dora_inputs,
            "first the gradient of V = W + s B A, row by row; A and B follow from it.",
        ),
        _check(
            "reallocate", 5, _allocation_inputs,
            "smooth |w g|, smooth its distance from the smoothed one, multiply, then compare.",
        ),
        _check(
            "trained_numbers", 3, _count_inputs,
            "write down the shapes of the seven matrices of a layer first.",
        ),
        _check(
            "diagnose", 5, _diagnose_inputs,
            "make one input for each fault, on which only that fault can show.",
            expect=_faults,
        ),
    ),
)  # fmt: skip
