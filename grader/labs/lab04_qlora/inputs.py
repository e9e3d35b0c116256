"""The data of lab 04's checks. Runs outside the sandbox only."""

import numpy as np
import torch
from torch import Tensor

from grader.checks.core import Arrays
from grader.checks.exercise import every_kind, normal

FAULTS = ("healthy", "merged_first", "halves_swapped", "low_precision", "base_detached")
MARGIN = 1e-4  # of a block's unit: no rounding of float32 carries a number over a midpoint


def _levels(rng: np.random.Generator, count: int, *, signed: bool = True) -> Tensor:
    """Ascending levels with gaps of all sizes from -1 or 0 to 1, 0 among them."""
    parts = count // 2 if signed else 0, count - count // 2 - 1 if signed else count - 1
    lower, upper = (np.cumsum(rng.uniform(0.2, 1.0, size=n)) for n in parts)
    below = -(lower / lower[-1])[::-1] if signed else lower
    return torch.from_numpy(np.concatenate([below, [0.0], upper / upper[-1]]).astype(np.float32))


def _is_clear(values: Tensor, levels: Tensor, block_size: int) -> bool:
    """Whether no number of any block is so near to a midpoint that rounding decides."""
    midpoints = ((levels[1:] + levels[:-1]) / 2).double()
    for block in values.double().flatten().split(block_size):
        unit = block / block.abs().max().clamp(min=1e-30)
        if ((unit[:, None] - midpoints).abs() < MARGIN).any():
            return False
    return True


def normal_float(rng: np.random.Generator) -> Arrays:
    """Widths, the usual outermost probability and others."""
    given = [(bits, float(rng.uniform(0.8, 0.99))) for bits in (4, int(rng.integers(2, 8)))]
    return {"bits": [4, 3, int(rng.integers(5, 9)), 2], "given": given}


def _pack_case(
    rng: np.random.Generator, kind: str, shape: tuple[int, int], block_size: int
) -> Arrays:
    codes = _levels(rng, 16)
    while True:
        weight = normal(rng, *shape) * (0.3 + normal(rng, shape[0], 1).abs())
        if kind == "a block of zeros":
            weight.view(-1)[block_size : 2 * block_size] = 0
        if kind == "bfloat16":
            weight = weight.bfloat16()
        if _is_clear(weight.float(), codes, block_size):
            return {"kind": kind, "weight": weight, "codes": codes, "block_size": block_size}


def pack_weight(rng: np.random.Generator) -> Arrays:
    """Blocks that divide, that end within a row and a byte; an odd number of weights."""
    extra = 2 * int(rng.integers(0, 3))
    cases = (
        ("whole blocks", (6, 16), 8),
        ("a short last block", (6, 9 + extra), 8),
        ("odd blocks and weights", (5, 9 + extra), 7),
        ("a block of zeros", (4, 12), 12),
        ("bfloat16", (3, 10 + extra), 6),
    )
    return {"cases": [_pack_case(rng, *case) for case in cases]}


def unpack_weight(rng: np.random.Generator) -> Arrays:
    """Packed weights of several shapes, one of an odd number of weights."""
    cases = []
    for kind, (O, I), size in (  # noqa: E741
        ("whole blocks", (6, 16), 8),
        ("odd blocks and weights", (7, 2 * int(rng.integers(5, 8)) + 1), 9),
        ("one short block", (3, 5), 64),
    ):
        n = O * I
        packed = torch.from_numpy(rng.integers(0, 256, size=-(-n // 2)).astype(np.uint8))
        if n % 2:
            packed[-1] &= 0xF0
        absmax = torch.from_numpy(rng.uniform(0.2, 3.0, size=-(-n // size)).astype(np.float32))
        cases.append(
            {
                "kind": kind,
                "packed": packed,
                "absmax": absmax,
                "codes": _levels(rng, 16),
                "block_size": size,
                "shape": (O, I),
            }
        )
    return {"cases": cases}


def _scales(rng: np.random.Generator, n: int, table: Tensor, block_size: int) -> Tensor:
    """Positive scales, of which the first half is larger: each block's mean is another."""
    while True:
        absmax = torch.from_numpy(rng.uniform(1, 3, size=n).astype(np.float32))
        absmax[: n // 2] += 4
        if _is_clear(absmax.double() - absmax.double().mean(), table, block_size):
            return absmax


def double_quantize(rng: np.random.Generator) -> Arrays:
    """Scales of several blocks, of one short block, of a whole one, and all equal."""
    n = int(rng.integers(29, 40))
    sizes = {"several blocks": (n, 8), "a short block alone": (11, 16), "blocks of 256": (300, 256)}
    cases = []
    for kind, (count, size) in sizes.items():
        table = _levels(rng, int(rng.integers(9, 14)))
        absmax = _scales(rng, count, table, size)
        cases.append({"kind": kind, "absmax": absmax, "table": table, "block_size": size})
    equal = {"absmax": torch.full((16,), 0.5), "table": _levels(rng, 9), "block_size": 8}
    return {"cases": [*cases, {"kind": "all equal", **equal}]}


def _whole(rng: np.random.Generator, *shape: int) -> Tensor:
    """Numbers from -2 to 2: what is summed here of their products bfloat16 holds exactly."""
    return torch.from_numpy(rng.integers(-2, 3, size=shape)).float()


def frozen_product(rng: np.random.Generator) -> Arrays:
    """The weight is larger than everything else: what is kept of it shows in the bytes."""
    O, I = int(rng.integers(41, 47)), int(rng.integers(31, 37))  # noqa: E741
    shapes = {"weight": (O, I), "x": (2, 3, I), "probe": (2, 3, O)}
    return {
        "float32": {name: normal(rng, *shape) for name, shape in shapes.items()},
        "bfloat16": {name: _whole(rng, *shape) for name, shape in shapes.items()},
    }


def _moments(case: Arrays) -> tuple[Tensor, Tensor]:
    """Both moments of a case after its step, in float64."""
    grad, size = case["grad"].double(), case["block_size"]
    held = [torch.zeros_like(grad)] * 2
    if case["state"] is not None:
        held = [
            table.double()[codes.int()] * absmax.double().repeat_interleave(size)[: len(grad)]
            for (codes, absmax), table in zip(case["state"], case["tables"], strict=True)
        ]
    one, two = case["betas"]
    return one * held[0] + (1 - one) * grad, two * held[1] + (1 - two) * grad**2


def _adam_case(rng: np.random.Generator, kind: str, n: int, block_size: int) -> Arrays:
    """Gradients of very unlike size in a block; a few are 0 and have no moments either."""
    first, tables = kind == "first step", (_levels(rng, 17), _levels(rng, 12, signed=False))
    blocks = -(-n // block_size)
    while True:
        grad = normal(rng, n) * torch.from_numpy(10 ** rng.uniform(-2, 1, n)).float()
        packed = []
        for table in tables:
            codes = torch.from_numpy(rng.integers(0, len(table), size=n).astype(np.uint8))
            codes[3:6] = int((table == 0).nonzero()[0, 0])
            absmax = torch.from_numpy(rng.uniform(0.5, 2.0, size=blocks).astype(np.float32))
            packed.append((codes, absmax))
        grad[3:6] = 0
        case = {
            "kind": kind,
            "grad": grad,
            "state": None if first else tuple(packed),
            "tables": tables,
            "step": 1 if first else int(rng.integers(3, 9)),
            "lr": float(rng.uniform(0.01, 0.1)),
            "betas": (float(rng.uniform(0.7, 0.9)), float(rng.uniform(0.8, 0.95))),
            "eps": 1e-3,
            "block_size": block_size,
        }
        pairs = zip(_moments(case), tables, strict=True)
        if all(_is_clear(moment, table, block_size) for moment, table in pairs):
            return case


def adam8bit_update(rng: np.random.Generator) -> Arrays:
    """A first step and two later ones; blocks that divide nothing."""
    n = int(rng.integers(26, 31))
    return {
        "cases": [
            _adam_case(rng, "first step", n, 8),
            _adam_case(rng, "later step", n, 8),
            _adam_case(rng, "later step, blocks of 256", n, 256),
        ]
    }


def loftq(rng: np.random.Generator) -> Arrays:
    """A wide weight for one round, a tall one for three."""
    cases = []
    for kind, (O, I), rounds in (  # noqa: E741
        ("one round", (12, 17), 1),
        ("three rounds", (int(rng.integers(13, 17)), 11), 3),
    ):
        cases.append(
            {
                "kind": kind,
                "weight": normal(rng, O, I),
                "step": 1.0,
                "rank": int(rng.integers(2, 5)),
                "scaling": float(rng.uniform(1.5, 4.0)),
                "rounds": rounds,
            }
        )
    return {"cases": cases}


def memory_plan(rng: np.random.Generator) -> Arrays:
    """Two models, each with a matrix of an odd number of weights."""
    cases = []
    for block_size in (64, 32):
        shapes = [tuple(int(n) for n in rng.integers(33, 160, size=2)) for _ in range(3)]
        cases.append(
            {
                "shapes": [*shapes, (41, 43)],
                "others": int(rng.integers(100, 5000)),
                "rank": int(rng.integers(2, 9)),
                "block_size": block_size,
            }
        )
    return {"cases": cases}


def diagnose(rng: np.random.Generator) -> Arrays:
    """Every fault and some more, in random order, with block sizes of their own."""
    faults = every_kind(rng, range(len(FAULTS)), more=4)
    sizes = (2 * int(n) for n in rng.integers(4, 17, size=len(faults)))
    return {
        "cases": [{"fault": f, "block_size": size} for f, size in zip(faults, sizes, strict=True)]
    }
