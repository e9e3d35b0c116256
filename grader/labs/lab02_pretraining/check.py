"""The checks of lab 02: data, expectations, points and hints. Runs outside the sandbox only."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from grader.checks.core import Arrays, Lab
from grader.checks.exercise import every_kind, exercise, normal
from grader.checks.values import Tolerance
from grader.labs.lab02_pretraining.hints import HINTS

FLOAT32 = Tolerance(rtol=1e-4, atol=1e-5, reason="float32 rounding of sums of some hundred terms")
FLOAT64 = Tolerance(rtol=1e-9, atol=1e-12, reason="float64 rounding of a cosine")
FAULTS = ("healthy", "not_shifted", "padding_learnt", "gradients_kept", "warmup_skipped")


def _merge_inputs(rng: np.random.Generator) -> Arrays:
    """A frequent pair among rare words, ties of both kinds, runs of one token, nothing to join."""
    a, b, c, d = sorted(rng.choice(200, size=4, replace=False).tolist())
    random = [rng.integers(0, 4, size=n).tolist() for n in (5, 3, 6, 4, 2, 7)]
    few, many = (int(x) for x in rng.integers([2, 12], [4, 16]))
    kinds = {
        "rare words hold the commonest letters": (
            [[a, b, c, a, b], [a, b], [c, d]],
            [1, few, many],
        ),
        "a tie of the left tokens": ([[d, a], [b, d], [c, c]], [few, few, few - 1]),
        "a tie of the right tokens": ([[b, d], [b, c], [c, b, a]], [few, few, 1]),
        "runs of one token": ([[a] * 5, [b, a, a, a, b], [c, a, a]], [few, 1, 2]),
        "random words": (random, rng.integers(1, 9, size=len(random)).tolist()),
        "single tokens": ([[c], [a]], [few, many]),
    }
    new = 256 + int(rng.integers(0, 50))
    return {
        "cases": [
            {"kind": kind, "words": words, "times": times, "new": new}
            for kind, (words, times) in kinds.items()
        ]
    }


def _merges(rng: np.random.Generator, text: list[int], count: int) -> list[list[int]]:
    """Merges that a text really has, in random order of frequency."""
    merges: list[list[int]] = []
    for new in range(256, 256 + count):
        at = int(rng.integers(0, len(text) - 1))
        pair, joined, i = text[at : at + 2], [], 0
        while i < len(text):
            whole = text[i : i + 2] == pair
            joined.append(new if whole else text[i])
            i += 2 if whole else 1
        merges.append([*pair, new])
        text = joined
    return merges


def _encode_inputs(rng: np.random.Generator) -> Arrays:
    """Words where the first merge learnt is neither the leftmost nor part of the longest token."""
    a, b, c, d = rng.permutation(200)[:4].tolist()
    text = rng.integers(0, 4, size=60).tolist()
    ranked = [[b, c, 256], [a, b, 257], [256, d, 258], [257, c, 259], [259, d, 260]]
    runs = [[a, a, 256], [256, 256, 257], [b, a, 258]]
    return {
        "cases": [
            {
                "kind": "ranks",
                "merges": ranked,
                "words": {
                    "the first learnt stands right": [a, b, c, d],
                    "twice": [a, b, c, a, b, d, a, b],
                    "nothing known": [d, c, a],
                },
            },
            {
                "kind": "runs",
                "merges": runs,
                "words": {
                    "odd": [a] * int(2 * rng.integers(1, 4) + 1),
                    "after another": [b, a, a, a, a, c],
                    "one token": [c],
                    "empty": [],
                },
            },
            {
                "kind": "random merges",
                "merges": _merges(rng, text, 14),
                "words": {
                    "a long word": text[5:50],
                    "a random word": rng.integers(0, 4, size=31).tolist(),
                },
            },
        ]
    }


def _pack_inputs(rng: np.random.Generator) -> Arrays:
    """Documents shorter than a row, as long, one token longer, many rows long, and of one token."""
    length = int(rng.integers(9, 13))
    sizes = {
        "short texts": [4, length - 3, 2, 3, length - 5, 2, 6],
        "cut texts": [3 * length + 2, length, length + 1, 1, 5, 2 * length + 1, 4, 0],
        "one row": [3, 2],
    }
    pad_id = int(rng.integers(100, 120))
    return {
        "cases": [
            {
                "kind": kind,
                "documents": [rng.integers(0, 100, size=n).tolist() for n in counts],
                "length": length,
                "pad_id": pad_id,
            }
            for kind, counts in sizes.items()
        ]
    }


def _within_inputs(rng: np.random.Generator) -> Arrays:
    """Rows of several documents, one of a single token, padding with ids that are none."""
    B, T, V = 3, int(rng.integers(9, 12)), int(rng.integers(13, 17))
    cuts = [(3, 7, T), (1, 2, T - 3), (5, 6, T - 1)]
    documents = torch.full((B, T), -1)
    for row, (first, second, end) in enumerate(cuts):
        documents[row, :end] = 2
        documents[row, :second] = 1
        documents[row, :first] = 0
    ids = torch.from_numpy(rng.integers(0, V, size=(B, T)))
    return {
        "logits": 3 * normal(rng, B, T, V),
        "ids": ids.masked_fill(documents < 0, -100),
        "documents": documents,
    }


def _rate_inputs(rng: np.random.Generator) -> Arrays:
    warmup, stable, falling = (int(x) for x in rng.integers([4, 5, 8], [8, 9, 13]))
    kinds = {
        "warm-up, plateau, decay": (warmup, stable, falling),
        "no plateau": (warmup, 0, falling),
        "no warm-up": (0, stable, falling),
        "no decay": (warmup, stable, 0),
    }
    return {
        "cases": [
            {
                "kind": kind,
                "peak": float(rng.uniform(1e-3, 1e-2)),
                "steps": sum(parts),
                "warmup": parts[0],
                "stable": parts[1],
            }
            for kind, parts in kinds.items()
        ]
    }


def _step_case(rng: np.random.Generator, kind: str, step: int, size: float) -> Arrays:
    shapes = {"table": (5, 4), "norm": (4,), "matrix": (3, 4), "unused": (2, 3)}
    weights = {name: normal(rng, *shape) for name, shape in shapes.items()}
    gradients: dict[str, Tensor | None] = {n: size * normal(rng, *s) for n, s in shapes.items()}
    gradients["unused"] = None
    moments = {n: (0.1 * normal(rng, *s), 0.01 + normal(rng, *s) ** 2) for n, s in shapes.items()}
    del moments["unused"]
    return {
        "kind": kind,
        "weights": weights,
        "gradients": gradients,
        "moments": moments if step > 1 else {},
        "step": step,
        "lr": float(rng.uniform(0.01, 0.05)),
        "weight_decay": float(rng.uniform(0.2, 0.5)),
        "betas": (float(rng.uniform(0.7, 0.9)), float(rng.uniform(0.9, 0.97))),
        "max_norm": float(rng.uniform(0.8, 1.2)),
    }


def _optimizer_inputs(rng: np.random.Generator) -> Arrays:
    later = int(rng.integers(4, 9))
    still = _step_case(rng, "gradients of zero", later, 0.0)
    return {
        "cases": [
            _step_case(rng, "first step", 1, 2.0),
            _step_case(rng, "later step, large gradients", later, 3.0),
            _step_case(rng, "later step, small gradients", later, 0.02),
            still,
        ]
    }


def _flops_inputs(rng: np.random.Generator) -> Arrays:
    """Many heads of another width than D / H, shared and not; tied and untied tables."""
    cases = []
    for kind, tied, kv_heads in (("tied", True, 2), ("untied", False, 6)):
        config = {
            "vocab_size": int(rng.integers(500, 900)),
            "width": int(rng.integers(40, 70)),
            "num_layers": int(rng.integers(3, 6)),
            "num_heads": 6,
            "num_kv_heads": kv_heads,
            "head_width": int(2 * rng.integers(5, 9)),
            "ffn_width": int(rng.integers(100, 150)),
            "tie_embeddings": tied,
        }
        cases.append({"kind": kind, "config": config, "length": int(rng.integers(33, 90))})
    return {"cases": cases}


def _diagnose_inputs(rng: np.random.Generator) -> Arrays:
    faults = every_kind(rng, range(len(FAULTS)), more=4)
    return {"cases": [{"fault": fault, "vocab_size": int(rng.integers(6, 10))} for fault in faults]}


def _faults(inputs: Arrays) -> Arrays:
    """The faults that were planted."""
    return {f"loop {i + 1}": FAULTS[case["fault"]] for i, case in enumerate(inputs["cases"])}


_check = partial(exercise, "lab02_pretraining", hints=HINTS)

LAB = Lab(
    name="lab02_pretraining",
    teaches=(
        "labkit.data.bpe",
        "labkit.data.packing",
        "labkit.training",
    ),
    forbids=("tokenizers", "transformers"),
    files=("envelope.json",),
    checks=(
        _check(
            "merge_step", 4, _merge_inputs,
            "count every two neighbours, as often as their word occurs; then the tie-break.",
        ),
        _check(
            "encode_word", 4, _encode_inputs,
            "of all pairs that stand in the word, join the one that was learnt first.",
        ),
        _check(
            "pack_rows", 5, _pack_inputs,
            "cut into pieces, drop what teaches nothing, then the first row with room.",
        ),
        _check(
            "within_documents", 4, _within_inputs,
            "a token may see, and be predicted from, its own document only.",
            tolerance=FLOAT32,
        ),
        _check(
            "learning_rate", 3, _rate_inputs,
            "three parts one after another; which step is the first of each?",
            tolerance=FLOAT64,
        ),
        _check(
            "optimizer_step", 6, _optimizer_inputs,
            "clip all gradients by one factor first; the decay goes past the moments.",
            tolerance=FLOAT32,
        ),
        _check(
            "training_flops", 4, _flops_inputs,
            "a product costs two operations a number and token forward and twice that backward.",
            tolerance=FLOAT64,
        ),
        _check(
            "diagnose", 6, _diagnose_inputs,
            "make one run for each fault, on which only that fault changes the losses.",
            expect=_faults,
        ),
    ),
)  # fmt: skip
