"""The checks of lab 01: data, expectations, points and hints. Runs outside the sandbox only."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from grader.checks.core import Arrays, Lab
from grader.checks.exercise import every_kind, exercise, normal
from grader.checks.values import Tolerance
from grader.labs.lab01_minillm import hints

FLOAT32 = Tolerance(rtol=1e-4, atol=1e-5, reason="float32 rounding of sums of terms up to 10")
ROUNDED_ONCE = Tolerance(rtol=1e-5, atol=1e-7, reason="float32 rounding; no result near a tie")
ANGLES = Tolerance(rtol=1e-4, atol=1e-3, reason="float32 rounding of angles up to 600 radians")
COUNTED = Tolerance(rtol=1e-9, reason="float64 rounding of an exact count")

NEAR_A_TIE = 2e-6  # ten times what float32 is off by


def _norm_inputs(rng: np.random.Generator) -> Arrays:
    """Rows of unlike size, one of zeros, one with a large mean; then rows of half precision."""
    D, eps = int(rng.integers(15, 22)), float(rng.uniform(1e-3, 1e-2))
    x = normal(rng, 2, 3, D) * torch.tensor([[1.0, 0.02, 0.0], [9.0, 1.0, 0.1]])[..., None]
    x[1, 1] += 3
    cases = [{"kind": "float32", "x": x, "weight": normal(rng, D) + 1}]
    for kind, dtype, size in (("bfloat16", torch.bfloat16, 2.0), ("float16", torch.float16, 900.0)):
        cases.append({"kind": kind, **_without_ties(rng, D, eps, dtype, size)})
    return {"cases": cases, "eps": eps}


def _without_ties(
    rng: np.random.Generator, D: int, eps: float, dtype: torch.dtype, size: float
) -> Arrays:
    """Rows whose exact results are not so near the middle of two numbers that float32 decides."""
    while True:
        x = (size * normal(rng, 3, D)).to(dtype)
        weight = (1 + 0.3 * normal(rng, D)).to(dtype)
        wide = x.double()
        exact = weight * wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt()
        below, above = (exact * (1 + off) for off in (-NEAR_A_TIE, NEAR_A_TIE))
        if torch.equal(below.to(dtype), above.to(dtype)):
            return {"x": x, "weight": weight}


def _rope_inputs(rng: np.random.Generator) -> Arrays:
    """Rows that begin at other positions, one padded on the left; small numbers in bfloat16."""
    B, H, T, half = 3, 2, 5, int(rng.integers(4, 7))
    start = torch.from_numpy(rng.integers(280, 590, size=B))
    positions = start[:, None] + torch.arange(T)
    positions[1] = torch.tensor([0, 0, 0, 1, 2])
    theta = float(rng.uniform(2e3, 9e4))
    x = normal(rng, B, H, T, 2 * half)
    wide = normal(rng, B, H, T, 2 * half + 3)
    cases = [
        {"kind": "whole heads", "x": x, "rotary_width": None},
        {"kind": "the first part of each head", "x": wide, "rotary_width": 2 * half - 2},
        {"kind": "bfloat16", "x": (x.flip(2) / 32).bfloat16(), "rotary_width": None},
    ]
    return {"cases": cases, "positions": positions, "theta": theta}


def _attention_inputs(rng: np.random.Generator) -> Arrays:
    """Every kind of mask, over several, one and as many key/value heads as query heads."""
    S, window = int(rng.integers(9, 13)), int(rng.integers(3, 5))
    kinds: tuple[tuple[str, tuple[int, int], int, Arrays], ...] = (
        ("causal", (6, 2), S, {}),
        ("the last queries over a cache", (6, 2), 4, {}),
        ("one query over a cache", (6, 3), 1, {"window": window}),
        ("window", (4, 4), S, {"window": window}),
        ("window with sinks", (6, 2), 5, {"window": window, "sinks": 2}),
        ("more sinks than early queries may see", (6, 2), S, {"window": 2, "sinks": 4}),
        ("sinks without a window", (6, 2), S, {"sinks": 3}),
        ("window longer than the text", (3, 1), S, {"window": S + 4}),
    )
    return {"cases": [_attention_case(rng, S, *kind) for kind in kinds]}


def _attention_case(
    rng: np.random.Generator, S: int, kind: str, heads: tuple[int, int], T: int, options: Arrays
) -> Arrays:
    B, K, (H, G) = 2, 5, heads
    q, k, v = 1.5 * normal(rng, B, H, T, K), 1.5 * normal(rng, B, G, S, K), normal(rng, B, G, S, K)
    return {"kind": kind, "q": q, "k": k, "v": v, "options": options}


def _block_inputs(rng: np.random.Generator) -> Arrays:
    B, T, D, H, G, K, F = 2, 5, 14, 6, 3, 4, int(rng.integers(17, 23))
    shapes = {
        "input_layernorm": (D,),
        "self_attn.q_proj": (H * K, D),
        "self_attn.k_proj": (G * K, D),
        "self_attn.v_proj": (G * K, D),
        "self_attn.o_proj": (D, H * K),
        "post_attention_layernorm": (D,),
        "mlp.gate_proj": (F, D),
        "mlp.up_proj": (F, D),
        "mlp.down_proj": (D, F),
        "post_feedforward_layernorm": (D,),
    }
    drawn: dict[str, Tensor] = {
        f"{name}.weight": normal(rng, *shape) * shape[-1] ** (-0.5 if len(shape) == 2 else 0.0)
        for name, shape in shapes.items()
    }
    after, before = "post_feedforward_layernorm.weight", "input_layernorm.weight"
    return {
        "x": normal(rng, B, T, D),
        "heads": [H, G],
        "head_width": K,
        "pre-norm": {name: w for name, w in drawn.items() if name != after},
        "post-norm": {name: w for name, w in drawn.items() if name != before},
    }


def _size_inputs(rng: np.random.Generator) -> Arrays:
    """Sizes all different; H K is not D, as in some models."""
    cases = []
    for kind, tied, experts in (
        ("dense, tied", True, None),
        ("dense, untied", False, None),
        ("experts, tied", True, {"num_experts": int(rng.integers(5, 9)), "top_k": 3}),
        ("experts, untied", False, {"num_experts": int(rng.integers(3, 6)), "top_k": 1}),
    ):
        config = {
            "vocab_size": int(rng.integers(900, 1100)),
            "width": int(rng.integers(90, 120)),
            "num_layers": int(rng.integers(3, 8)),
            "num_heads": 6,
            "num_kv_heads": 2,
            "head_width": 2 * int(rng.integers(10, 14)),
            "ffn_width": int(rng.integers(200, 300)),
            "tie_embeddings": tied,
        }
        context = int(rng.integers(130, 190))
        cases.append({"kind": kind, "config": config, "moe": experts, "context": context})
    return {"cases": cases}


def _dispatch_inputs(rng: np.random.Generator) -> Arrays:
    """Routers that favour some experts, with little, some and too much room."""
    N, E = int(rng.integers(13, 18)), 5
    cases = []
    for kind, top_k, capacity in (
        ("one expert a token", 1, 3), ("two experts a token", 2, 4), ("room for all", 2, N + 1),
        ("three experts a token", 3, 5),
    ):  # fmt: skip
        favour = torch.from_numpy(rng.permutation(np.linspace(-1.5, 1.5, E)).astype(np.float32))
        case = {"kind": kind, "logits": normal(rng, N, E) + favour, "top_k": top_k}
        cases.append({**case, "capacity": capacity, "probe": normal(rng, E, capacity)})
    return {"cases": cases}


NAMES = ("healthy", "centred", "interleaved", "values_rotated", "unnormalised")


def _diagnose_inputs(rng: np.random.Generator) -> Arrays:
    """Head widths and bases of every kind; a fault is a number here, and its name is below."""
    faults = every_kind(rng, range(len(NAMES)), more=4)
    return {
        "cases": [
            {
                "fault": fault,
                "head_width": 2 * int(rng.integers(3, 8)),
                "theta": int(rng.integers(1_000, 100_000)),
            }
            for fault in faults
        ]
    }


def _faults(inputs: Arrays) -> Arrays:
    """The faults that were planted."""
    return {f"layer {i}": NAMES[case["fault"]] for i, case in enumerate(inputs["cases"])}


_check = partial(exercise, "lab01_minillm", tolerance=FLOAT32, hints=hints.HINTS)

LAB = Lab(
    name="lab01_minillm",
    teaches=("labkit.model", "labkit.training", "labkit.inference"),
    forbids=("transformers",),
    files=("envelope.json",),
    checks=(
        _check(
            "rms_norm", 4, _norm_inputs,
            "divide by the root of (mean of squares + eps), then multiply by the weight.",
            tolerance=ROUNDED_ONCE,
        ),
        _check(
            "rope", 5, _rope_inputs,
            "which two numbers of a head turn together, and by which angle?",
            tolerance=ANGLES,
        ),
        _check(
            "grouped_attention", 7, _attention_inputs,
            "write the scores of one query of one head down by hand and compare.",
        ),
        _check(
            "block", 6, _block_inputs,
            "follow one token through the layer: what is normalised, what is added to what?",
        ),
        _check(
            "predict_size", 4, _size_inputs,
            "one term for each matrix of a block, then what stands outside of the blocks.",
            tolerance=COUNTED,
        ),
        _check(
            "dispatch", 5, _dispatch_inputs,
            "play it through with three tokens, two experts and room for one.",
        ),
        _check(
            "diagnose", 5, _diagnose_inputs,
            "choose inputs for which a right layer's output is known without computing.",
            expect=_faults,
        ),
    ),
)  # fmt: skip
