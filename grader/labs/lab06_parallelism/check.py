"""The checks of lab 06: data, expectations, points and hints. Runs outside the sandbox only."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from grader.checks.core import Arrays, Lab
from grader.checks.exercise import every_kind, exercise, normal
from grader.checks.values import Tolerance
from grader.labs.lab06_parallelism.hints import HINTS

FLOAT32 = Tolerance(rtol=1e-4, atol=1e-5, reason="float32 rounding of sums in another order")
LOGITS = Tolerance(rtol=1e-4, atol=3e-4, reason="float32 rounding of logits near 1000")
TIMES = Tolerance(rtol=1e-9, atol=1e-9, reason="float64 rounding")
FAULTS = ("healthy", "summed", "early", "no_broadcast", "same_data")


def _ring_inputs(rng: np.random.Generator) -> Arrays:
    """Rings of one to four; three ranks divide their tensor, the others do not."""
    odd = 2 * int(rng.integers(3, 6)) + 1
    shapes: dict[int, tuple[int, ...]] = {
        1: (odd,),
        2: (odd, 3),
        3: (2, 3, int(rng.integers(2, 5))),
        4: (4 * odd + int(rng.integers(1, 4)),),
    }
    return {"rings": [[normal(rng, *shape) for _ in range(n)] for n, shape in shapes.items()]}


def _bucket_inputs(rng: np.random.Generator) -> Arrays:
    """Gradients that come from the last to the first, but for one that is late."""
    kinds = ("ordinary", "exactly full", "one too large", "late", "slow network", "one rank")
    return {"cases": [_bucket_case(rng, kind) for kind in kinds]}


def _bucket_case(rng: np.random.Generator, kind: str) -> Arrays:
    count, bucket_bytes = int(rng.integers(9, 13)), 900
    sizes = [int(size) for size in rng.integers(100, 500, size=count)]
    if kind == "exactly full":
        sizes[-4:] = [300, 600, bucket_bytes - sizes[-1], sizes[-1]]
    if kind == "one too large":
        sizes[count // 2] = 2000
    ready = np.cumsum(rng.uniform(1, 6, size=count))[::-1]
    if kind == "late":  # it shares the first bucket
        sizes[-2:], ready[-1] = [300, 200], ready[0] + 5.0
    return {
        "kind": kind,
        "sizes": sizes,
        "ready_ms": [float(ms) for ms in ready],
        "bucket_bytes": bucket_bytes,
        "n": 1 if kind == "one rank" else int(rng.integers(2, 9)),
        "latency_ms": float(rng.uniform(0.1, 0.3)),
        "bytes_per_ms": float(rng.uniform(20, 40) if kind == "slow network" else 300.0),
    }


def _zero_inputs(rng: np.random.Generator) -> Arrays:
    """Units that n does not divide; one run as the paper has it, one that accumulates."""

    def case(kind: str, frozen: int, m: int) -> Arrays:
        n = int(rng.integers(3, 9))
        beyond = [1, 1, *(int(rest) for rest in rng.integers(1, n, size=2))]
        units = [n * int(rng.integers(900, 4000)) + rest for rest in beyond]
        return {"kind": kind, "units": units, "frozen": frozen, "n": n, "m": m}

    frozen = int(rng.integers(1000, 9000))
    return {"cases": [case("plain", 0, 1), case("accumulating", frozen, int(rng.integers(2, 5)))]}


def _ffn_inputs(rng: np.random.Generator) -> Arrays:
    B, T, D = 2, int(rng.integers(3, 6)), 5

    def case(n: int) -> Arrays:
        F = n * int(rng.integers(2, 4))
        return {
            "n": n,
            "gate_up": normal(rng, 2 * F, D),
            "down": normal(rng, D, F),
            "bias": normal(rng, D),
            "x": normal(rng, B, T, D),
            "probe": normal(rng, B, T, D),
        }

    return {"cases": [case(n) for n in (2, 3)]}


def _shards(logits: Tensor, widths: list[int]) -> Arrays:
    """The logits' columns in parts, and where each begins."""
    starts = np.cumsum([0, *widths[:-1]])
    return {"parts": list(logits.split(widths, dim=1)), "starts": [int(s) for s in starts]}


def _loss_inputs(rng: np.random.Generator) -> Arrays:
    """Small, huge and padded logits; the last shard of one vocabulary is nothing but padding."""
    N, widths = int(rng.integers(6, 9)), [5, 4, 6]

    def case(kind: str, vocab_size: int, size: float, shift: Tensor) -> Arrays:
        logits = size * normal(rng, N, sum(widths)) + shift
        logits[:, vocab_size:] = torch.tensor([torch.inf, 1e4, torch.nan]).repeat(2)[
            : sum(widths) - vocab_size
        ]
        targets = torch.from_numpy(rng.integers(0, vocab_size, size=N))
        targets[0], targets[1], targets[2] = 0, vocab_size - 1, 6
        targets[int(rng.integers(3, N))] = -100
        shards = _shards(logits, widths)
        return {"kind": kind, "targets": targets, "vocab_size": vocab_size, **shards}

    nowhere, far = torch.zeros(1), torch.tensor([-900.0] * 5 + [700.0] * 4 + [-800.0] * 6)
    return {
        "cases": [
            case("ordinary", 15, 3.0, nowhere),
            case("shards far apart", 15, 40.0, far),
            case("padded", 13, 3.0, nowhere),
            case("last shard all padding", 9, 3.0, nowhere),
        ]
    }


def _pipeline_inputs(rng: np.random.Generator) -> Arrays:
    """Many micro-batches, as many as stages, fewer, and a pipeline of one stage."""
    p = int(rng.integers(3, 6))
    more = p + int(rng.integers(2, 7))
    alone = int(rng.integers(2, 9))
    return {"pipelines": [[p, more], [p + 1, p + 1], [p + 2, p - 1], [1, alone]]}


def _diagnose_inputs(rng: np.random.Generator) -> Arrays:
    faults = every_kind(rng, range(len(FAULTS)), more=4)
    ranks, micro = rng.integers(2, 5, size=(2, len(faults)))
    return {
        "cases": [
            {"fault": fault, "n": int(n), "m": int(m)}
            for fault, n, m in zip(faults, ranks, micro, strict=True)
        ]
    }


def _faults(inputs: Arrays) -> Arrays:
    """The faults that were planted."""
    return {f"step {i + 1}": FAULTS[case["fault"]] for i, case in enumerate(inputs["cases"])}


_check = partial(exercise, "lab06_parallelism", hints=HINTS, tolerance=FLOAT32)

LAB = Lab(
    name="lab06_parallelism",
    teaches=("labkit.training.parallel",),
    forbids=("deepspeed",),
    files=("envelope.json",),
    checks=(
        _check(
            "ring_all_reduce", 6, _ring_inputs,
            "follow one chunk around the ring: where does it begin, where does it end?",
        ),
        _check(
            "bucket_timeline", 5, _bucket_inputs,
            "walk through the buckets in order and keep when the network is free again.",
            tolerance=TIMES,
        ),
        _check(
            "zero_bill", 4, _zero_inputs,
            "2 bytes of weight, 2 of gradient, 12 of state; which of them has a rank whole?",
        ),
        _check(
            "parallel_ffn", 6, _ffn_inputs,
            "what a rank computes must need none of the others' hidden units.",
            symbol="ParallelFFN",
        ),
        _check(
            "parallel_cross_entropy", 5, _loss_inputs,
            "which numbers of the other shards does a softmax need?",
            tolerance=LOGITS,
        ),
        _check(
            "pipeline_schedule", 4, _pipeline_inputs,
            "simulate one stage: forwards done, backwards done, and the difference.",
        ),
        _check(
            "diagnose", 6, _diagnose_inputs,
            "make one batch for each fault, on which only that fault changes the weights.",
            expect=_faults,
        ),
    ),
)  # fmt: skip
