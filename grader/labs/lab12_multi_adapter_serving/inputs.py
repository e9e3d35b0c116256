"""What lab 12's exercises are checked on. Runs outside the sandbox only."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from grader.checks.core import Arrays
from grader.checks.exercise import every_kind, normal
from grader.labs.lab12_multi_adapter_serving.requests import STEMS

FAULTS = ("healthy", "no_scaling", "stale_prefix", "leaks", "late_name")


def costs_inputs(rng: np.random.Generator) -> Arrays:
    """A model like SmolLM2, one where adapters just fit, one that does not fit itself."""

    def case(kind: str, shapes: list[tuple[int, int]]) -> Arrays:
        L, R, size = (int(rng.integers(*ends)) for ends in ((3, 40), (2, 70), (1, 5)))
        base = int(rng.integers(2, 9)) * 10**8
        one = L * size * R * sum(i + o for i, o in shapes)
        room = one * int(rng.integers(3, 60))
        if kind == "ordinary":
            room += int(rng.integers(1, one))
        if kind == "just too small":
            room -= 1
        return {
            "kind": kind,
            "shapes": shapes,
            "num_layers": L,
            "rank": R,
            "itemsize": size,
            "base_bytes": base,
            "memory_bytes": base // 2 if kind == "no room for the base" else base + room,
            "distinct": int(rng.integers(2, 30)),
        }

    D, G, F = (64 * int(rng.integers(*ends)) for ends in ((6, 12), (1, 4), (16, 30)))
    square, thin = (D, D), (D, G)
    return {
        "cases": [
            case("ordinary", [square, thin, thin]),
            case("just fits", [square, (D, F), (F, D)]),
            case("just too small", [thin]),
            case("no room for the base", [square, thin]),
        ]
    }


def _stories(a: str, b: str, c: str) -> dict[str, tuple[int, list[list[Any]]]]:
    """Calls in an order that one rule alone decides: (most adapters, calls)."""
    return {
        "versions": (9, [
            ["mount", a], ["mount", b], ["mount", a], ["acquire", a], ["release", 0],
            ["release", 0], ["unmount", a], ["acquire", a], ["mount", a], ["acquire", f"{a}@v2"],
            ["acquire", f"{a}@v3"], ["unmount", f"{a}@v3"], ["unmount", a],
        ]),
        "draining": (9, [
            ["mount", a], ["acquire", a], ["acquire", f"{a}@v1"], ["unmount", a], ["acquire", a],
            ["acquire", f"{a}@v1"], ["unmount", a], ["release", 0], ["release", 1], ["release", 1],
            ["acquire", "__base__"], ["release", 4], ["release", 99],
        ]),
        "reload": (9, [
            ["mount", a], ["acquire", a], ["mount", a], ["acquire", a], ["acquire", f"{a}@v1"],
            ["release", 0], ["mount", b], ["acquire", b], ["release", 1], ["unmount", a],
        ]),
        "aliases": (9, [
            ["mount", a], ["alias", "prod", a], ["acquire", "prod"], ["mount", b],
            ["alias", "test", a], ["acquire", "test"],
            ["alias", "prod", f"{b}@v1"], ["acquire", "prod"], ["alias", "prod", c],
            ["mount", b], ["acquire", "prod"], ["alias", "prod", "prod"], ["alias", "test", b],
            ["unmount", "test"], ["acquire", b],
        ]),
        "capacity": (2, [
            ["mount", a], ["mount", b], ["acquire", a], ["release", 0], ["mount", c],
            ["acquire", a], ["acquire", c], ["mount", b], ["mount", a], ["acquire", a],
            ["release", 2], ["mount", a], ["release", 1], ["release", 3], ["mount", b],
            ["mount", c],
        ]),
    }  # fmt: skip


def _random_calls(rng: np.random.Generator, count: int) -> list[list[Any]]:
    """Most requests are released once, some never, some twice; most names mean something."""
    likely = (*("mount", "acquire", "release") * 4, "acquire", "release", "unmount", "alias")
    calls: list[list[Any]] = []
    running: list[int] = []
    acquired = 0
    for _ in range(count):
        method, stem = str(rng.choice(likely)), str(rng.choice(STEMS[:3]))
        names = (*[stem] * 5, "prod", f"{stem}@v{rng.integers(1, 4)}")
        if method == "mount":
            calls.append([method, stem])
        elif method == "alias":
            calls.append([method, "prod", str(rng.choice(names))])
        elif method == "release":
            again = not running or rng.random() < 0.1
            number = rng.integers(acquired + 1) if again else rng.choice(running)
            running = [n for n in running if n != number]
            calls.append([method, int(number)])
        else:
            if method == "acquire":
                running.append(acquired)
                acquired += 1
            calls.append([method, str(rng.choice(names))])
    return calls


def manager_inputs(rng: np.random.Generator) -> Arrays:
    a, b, c = (str(stem) for stem in rng.permutation(STEMS)[:3])
    cases = [
        {"kind": kind, "max_adapters": most, "calls": calls}
        for kind, (most, calls) in _stories(a, b, c).items()
    ]
    for most in (1, 2, 3):
        calls = _random_calls(rng, 90)
        cases.append({"kind": f"{most} at most, any calls", "max_adapters": most, "calls": calls})
    return {"cases": cases}


def _factors(rng: np.random.Generator, rank: int, I: int, O: int) -> tuple[Tensor, Tensor, float]:  # noqa: E741
    return normal(rng, rank, I), normal(rng, O, rank), float(rng.uniform(0.4, 2.5))


def grouped_inputs(rng: np.random.Generator) -> Arrays:
    """Base rows with inf, nan and -0.0; an adapter without rows whose factors are nan."""
    I, O = int(rng.integers(20, 24)), int(rng.integers(26, 30))  # noqa: E741
    adapters = [_factors(rng, R, I, O) for R in (2, 8, 4, 3)]
    adapters.insert(2, (torch.full((4, I), torch.nan), torch.full((O, 4), torch.nan), 1.0))
    cases = []
    for kind, slots in (
        ("mixed", rng.choice((0, 1, 2, 4, 5), size=int(rng.integers(30, 40)))),
        ("few rows", np.array([4, 0, 1, 4])),
        ("one adapter", np.full(12, 2)),
        ("base only", np.zeros(5)),
    ):
        N = len(slots)
        if kind == "mixed":
            slots[:6] = (1, 0, 5, 2, 0, 4)
        x, y, chosen = normal(rng, N, I), normal(rng, N, O), torch.from_numpy(slots).long()
        base = (chosen == 0).nonzero().flatten()
        x[base[:1], 3], x[base[1:2], 0] = torch.inf, torch.nan
        y[base, 1] = -0.0
        order = torch.from_numpy(rng.permutation(N))
        cases.append(
            {"kind": kind, "x": x, "y": y, "adapters": adapters, "slots": chosen, "order": order}
        )
    return {"cases": cases}


def fuse_inputs(rng: np.random.Generator) -> Arrays:
    I = int(rng.integers(10, 14))  # noqa: E741
    q, k, v = (int(n) for n in rng.permutation(np.arange(5, 12))[:3])
    cases = []
    for kind, ranks, widths in (
        ("q, k and v", (2, 3, 4), (q, k, v)),
        ("no adapter on k", (4, 0, 2), (q, k, v)),
        ("no adapter on q", (0, 3, 1), (q, k, v)),
        ("up alone", (0, 2), (q, k)),
    ):
        parts = [
            _factors(rng, R, I, O) if R else None
            for R, O in zip(ranks, widths, strict=True)  # noqa: E741
        ]
        case = {"kind": kind, "parts": parts, "widths": list(widths), "x": normal(rng, 6, I)}
        cases.append(case)
    return {"cases": cases}


def _load(rng: np.random.Generator, count: int, mean_ms: float, adapters: int) -> Arrays:
    gaps = rng.exponential(mean_ms, size=count).astype(int)
    return {
        "arrivals_ms": [int(t) for t in np.cumsum(gaps)],
        "adapters": [int(a) for a in rng.integers(0, adapters + 1, size=count)],
    }


def batches_inputs(rng: np.random.Generator) -> Arrays:
    """Loads under which one rule each decides, and some where all do."""
    limits = {"max_batch": 4, "max_delay_ms": 10, "max_adapters": 8, "batch_ms": 5, "row_ms": 2}
    first, d = int(rng.integers(2, 9)), int(rng.integers(6, 12))

    def case(kind: str, arrivals: list[int], adapters: list[int], **changed: int) -> Arrays:
        given = {"arrivals_ms": arrivals, "adapters": adapters, **limits, **changed}
        return {"kind": kind, **given}

    few = [first, first + d - 1, first + d, first + d + 1, first + 40]
    at_once = [first] * 4 + [first + 1] * 4 + [first + 2]
    turns = [first, first, first + 1, first + 1, first + 2, first + 3, first + 30]
    random = [
        {**limits, **_load(rng, int(rng.integers(24, 30)), mean, 6), **changed}
        for mean, changed in (
            (6.0, {"max_adapters": 2}),
            (2.0, {"max_adapters": 3, "max_batch": 6}),
            (3.0, {"max_adapters": 1, "max_batch": 3, "max_delay_ms": int(rng.integers(5, 25))}),
            (20.0, {"max_delay_ms": 30, "row_ms": 4}),
        )
    ]
    return {
        "cases": [
            case("light load", few, [0, 1, 0, 2, 1], max_delay_ms=d),
            case("all at once", at_once, [1] * 9),
            case("no delay", turns, [0, 1, 2, 3, 0, 1, 2], max_delay_ms=0),
            case("adapters in turns", turns, [1, 2, 1, 0, 2, 1, 1], max_adapters=1),
            *({"kind": f"load {n + 1}", **given} for n, given in enumerate(random)),
        ]
    }


def diagnose_inputs(rng: np.random.Generator) -> Arrays:
    faults = every_kind(rng, range(len(FAULTS)), more=4)
    return {"cases": [{"fault": fault, "width": int(rng.integers(3, 7))} for fault in faults]}
