"""The checks of lab 07: data, expectations, points and hints. Runs outside the sandbox only."""

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from grader.checks.core import Arrays, Lab
from grader.checks.exercise import every_kind, exercise, normal
from grader.checks.values import Tolerance
from grader.labs.lab07_training_efficiency.hints import HINTS

FLOAT32 = Tolerance(rtol=1e-4, atol=1e-5, reason="float32 rounding of sums of terms up to 10")
LARGE = Tolerance(
    rtol=1e-3, atol=1e-4, reason="float32 rounding of scores up to 200 in an exponent"
)
FAULTS = ("healthy", "mean_of_means", "clipped_scaled", "no_scaling", "no_master")


def tile_state(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row maximum, sum of exponentials and sum of weighted values; of no visible key -inf, 0, 0."""
    top = scores.amax(1)
    p = (scores - top.masked_fill(top == -math.inf, 0.0)[:, None]).exp()
    return top.float(), p.sum(1).float(), (p @ values).float()


def _merge_inputs(rng: np.random.Generator) -> Arrays:
    """Four tiles of keys; row 0 sees none of them, rows 1 and 2 see one only."""
    T, K = 6, int(rng.integers(3, 6))
    states = []
    for tile in range(4):
        S = int(rng.integers(3, 8))
        scores = (50 * normal(rng, T, S)).double()
        scores[0] = -math.inf
        scores[1, :] = scores[1] if tile == 2 else -math.inf
        scores[2, :] = scores[2] if tile == 0 else -math.inf
        scores[3, 1:] = -math.inf
        states.append(tile_state(scores, normal(rng, S, K).double()))
    return {"states": states}


def _causal(rng: np.random.Generator, T: int, S: int, K: int) -> tuple[Tensor, ...]:
    """q, k, v and which keys are hidden; one query's scores have no exponential in float32."""
    q, k, v = 2 * normal(rng, T, K), normal(rng, S, K), normal(rng, S, K)
    hidden = torch.arange(S) > torch.arange(T)[:, None] + S - T
    largest = (q @ k.T / math.sqrt(K)).masked_fill(hidden, 0.0).amax(1)
    q[largest.argmax()] *= 120 / largest.max().clamp(min=1.0)
    return q, k, v, hidden


def _tiled_inputs(rng: np.random.Generator) -> Arrays:
    """As many queries as keys, fewer, one alone; blocks that do not divide, one for all; many."""
    K = int(rng.integers(3, 7))
    shapes = {
        "T = S": (11, 11, 4, 3),
        "T < S": (int(rng.integers(5, 7)), int(rng.integers(13, 16)), 2, 4),
        "one query": (1, int(rng.integers(8, 12)), 3, 5),
        "one block": (7, 9, 16, 16),
        "many keys": (20, 1000, 10, 10),
    }
    cases = []
    for kind, (T, S, block_q, block_k) in shapes.items():
        q, k, v, _ = _causal(rng, T, S, K)
        cases.append({"kind": kind, "q": q, "k": k, "v": v, "blocks": (block_q, block_k)})
    return {"cases": cases}


def _gradient_inputs(rng: np.random.Generator) -> Arrays:
    """A causal attention's statistics, and the tiles that it is cut into."""
    T, S, K = int(rng.integers(7, 10)), int(rng.integers(11, 14)), int(rng.integers(3, 6))
    q, k, v, hidden = _causal(rng, T, S, K)
    scores = (q.double() @ k.double().T / math.sqrt(K)).masked_fill(hidden, -math.inf)
    return {
        **{"q": q, "k": k, "v": v, "hidden": hidden},
        "out": (scores.softmax(1) @ v.double()).float(),
        "lse": scores.logsumexp(1).float(),
        "d_out": normal(rng, T, K),
        "rows": (3, 4),
    }


def _checkpoint_inputs(rng: np.random.Generator) -> Arrays:
    N, D, F = int(rng.integers(5, 8)), int(rng.integers(9, 12)), int(rng.integers(13, 17))
    return {
        "x": normal(rng, N, D),
        "segments": [
            {"up": normal(rng, D, F), "gain": normal(rng, F), "down": normal(rng, F, D)}
            for _ in range(2)
        ],
        "d_out": normal(rng, N, D),
        "seed": int(rng.integers(1, 10_000)),
    }


def _scaling_inputs(rng: np.random.Generator) -> Arrays:
    """Small and large gradients; an infinite or missing number in one of them skips the step."""
    shapes = ((3, 2), (4,), (2, 2))
    kinds = ["fine", "fine", "inf", "fine", "nan", "fine", "fine", "fine", "-inf", "fine"]
    sizes = [0.05, 2.0, 1.0, 0.1, 1.0, 3.0, 0.08, 2.0, 1.0, 1.5]
    steps = [[size * normal(rng, *shape) for shape in shapes] for size in sizes]
    for kind, gradients in zip(kinds, steps, strict=True):
        if kind != "fine":
            gradients[int(rng.integers(0, 3))].view(-1)[1] = float(kind)
    return {
        "weights": [normal(rng, *shape) for shape in (*shapes, (2,))],
        "steps": steps,
        "scale": 2.0 ** int(rng.integers(8, 13)),
        "clip_norm": float(rng.uniform(0.8, 1.2)),
        "growth_interval": 2,
    }


def _accumulation_inputs(rng: np.random.Generator) -> Arrays:
    """Short and long micro-batches, one without a label, first columns with one."""
    V, D = int(rng.integers(11, 14)), int(rng.integers(4, 7))
    batches = []
    for T, counted in ((9, 7), (4, 1), (5, 0), (12, 9), (6, 3)):
        ids = torch.from_numpy(rng.integers(0, V, size=(2, T)))
        labels = torch.full_like(ids, -100)
        labels[0, T - counted :] = ids[0, T - counted :]
        labels[:, 0] = ids[:, 0]
        labels[1, 1] = ids[1, 1] if counted > 1 else -100
        batches.append((ids, labels))
    return {
        "batches": batches,
        "embedding": normal(rng, V, D),
        "head": normal(rng, V, D),
        "elsewhere": int(rng.integers(20, 90)),
        "ranks": int(rng.integers(2, 5)),
    }


def _chunked_inputs(rng: np.random.Generator) -> Arrays:
    """Positions without a target here and there, and a stretch of them longer than a chunk."""
    N, V, D = int(rng.integers(195, 210)), int(rng.integers(390, 410)), int(rng.integers(5, 8))
    targets = torch.from_numpy(rng.integers(0, V, size=N))
    targets[torch.from_numpy(rng.random(N) < 0.15)] = -100
    targets[40:65] = -100
    return {
        "hidden": 6 * normal(rng, N, D),
        "weight": 6 * normal(rng, V, D),
        "targets": targets,
        "chunk_rows": int(rng.integers(9, 12)),
        "factor": float(rng.uniform(0.2, 0.8)),
        "most_numbers": N * V // 2,
    }


def _diagnose_inputs(rng: np.random.Generator) -> Arrays:
    faults = every_kind(rng, range(len(FAULTS)), more=4)
    return {
        "cases": [
            {"fault": fault, "clip": int(rng.integers(1, 4)), "exponent": int(rng.integers(6, 11))}
            for fault in faults
        ]
    }


def _faults(inputs: Arrays) -> Arrays:
    """The faults that were planted."""
    return {f"step {i + 1}": FAULTS[case["fault"]] for i, case in enumerate(inputs["cases"])}


_check = partial(exercise, "lab07_training_efficiency", hints=HINTS, tolerance=FLOAT32)

LAB = Lab(
    name="lab07_training_efficiency",
    teaches=(
        "labkit.model.flash",
        "labkit.model.flash_triton",
        "labkit.objectives.linear_cross_entropy",
        "labkit.training.efficiency",
    ),
    files=("envelope.json",),
    checks=(
        _check(
            "merge_states", 4, _merge_inputs,
            "bring both sums to the larger of the two maxima, then add.",
            tolerance=LARGE,
        ),
        _check(
            "tiled_attention", 5, _tiled_inputs,
            "carry maximum, sum and weighted values from tile to tile; divide once, at the end.",
            tolerance=LARGE,
        ),
        _check(
            "tile_gradients", 4, _gradient_inputs,
            "P = exp(S - lse), dV = P^T dO, dS = P * (dP - delta); S has the factor 1 / sqrt(K).",
            tolerance=LARGE,
        ),
        _check(
            "checkpoint", 5, _checkpoint_inputs,
            "the second run must be the first one's twin.",
        ),
        _check(
            "scaled_step", 5, _scaling_inputs,
            "unscale, look, clip, step; then move the scale.",
        ),
        _check(
            "accumulate", 4, _accumulation_inputs,
            "divide every micro-batch's summed loss by the same number.",
        ),
        _check(
            "chunked_loss", 5, _chunked_inputs,
            "a chunk's share of the loss needs its own logits only.",
        ),
        _check(
            "diagnose", 5, _diagnose_inputs,
            "make one input for each fault, on which only that fault changes the step.",
            expect=_faults,
        ),
    ),
)  # fmt: skip
