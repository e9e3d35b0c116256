"""The checks of lab 10: data, expectations, points and hints. Runs outside the sandbox only."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grader.checks.core import Arrays, Lab
from grader.checks.exercise import every_kind, exercise, normal
from grader.checks.values import Tolerance
from grader.labs.lab10_paged_attention.hints import HINTS

FLOAT32 = Tolerance(rtol=1e-5, atol=1e-5, reason="float32 rounding of sums in another order")
SUMMED = Tolerance(rtol=1e-6, atol=1e-6, reason="float64 rounding of a sum over lengths")
Operations = list[tuple[str, int, float]]
FAULTS = ("healthy", "no_copy", "early_free", "flat_digest", "copy_leak")


def _bill_inputs(rng: np.random.Generator) -> Arrays:
    """Each kind of number; no common beginning, one within a page, one that fills pages."""

    def case(kind: str, kv: str, shared: str, *, tight: bool = False) -> Arrays:
        G, K, page_size = int(rng.integers(2, 5)), 8 * int(rng.integers(5, 12)), 16
        page_size += 4 * int(rng.integers(-2, 3))
        config = {
            "width": 3 * G * K,
            "num_layers": int(rng.integers(9, 31)),
            "num_heads": 3 * G,
            "num_kv_heads": G,
            "head_width": K,
        }
        length = int(rng.integers(90, 200))
        common = {
            "none": 0,
            "part of a page": page_size // 2,
            "ragged": 2 * page_size + int(rng.integers(1, page_size)),
            "full pages": 3 * page_size,
            "all but one token": length - 1,
        }[shared]
        token = 2 * config["num_layers"] * G * K * {"float32": 4, "bfloat16": 2, "int8": 1}[kv]
        pages = 2 if tight else int(rng.integers(120, 400))
        memory = int(1.2 * pages * page_size * token) + int(rng.integers(1, 500))
        mean = float(rng.uniform(1.5, 9) if tight else rng.uniform(20, 300))
        arguments = [page_size, kv, memory, mean, length, common]
        return {"kind": kind, "config": config, "arguments": arguments}

    return {
        "cases": [
            case("float32, nothing shared", "float32", "none"),
            case("bfloat16, part of a page shared", "bfloat16", "part of a page"),
            case("bfloat16, pages and a part shared", "bfloat16", "ragged"),
            case("int8, full pages shared", "int8", "full pages"),
            case("float32, all but one token shared", "float32", "all but one token"),
            case("int8, too little memory", "int8", "full pages", tight=True),
        ]
    }


def _operations(rng: np.random.Generator, count: int, most: int, chances: list[float]) -> Any:
    """Random operations on sequences that are open, and now and then an end of one that is not."""
    kinds = ("begin", "append", "fork", "truncate", "end", "end again")
    operations: list[tuple[str, int, float]] = []
    live: list[int] = []
    used = 0
    for _ in range(count):
        kind = str(rng.choice(kinds, p=chances))
        if kind == "begin" or not live:
            live.append(used)
            operations.append(("begin", used, 0))
            used += 1
            continue
        key = live[int(rng.integers(len(live)))]
        if kind == "append":
            operations.append((kind, key, int(rng.integers(1, most))))
        elif kind == "fork":
            operations.append((kind, key, used))
            live.append(used)
            used += 1
        elif kind == "truncate":
            operations.append((kind, key, float(rng.uniform(0, 1))))
        elif kind == "end":
            live.remove(key)
            operations.append((kind, key, 0))
        else:
            ended = [k for k in range(used) if k not in live]
            operations += [("end", k, 0) for k in ended[:1]]
    return operations


def _forked(page_size: int) -> list[tuple[str, int, float]]:
    """Two children of a full page and a part; all write on, the last alone; a cut into shared."""
    whole = [("begin", 0, 0), ("append", 0, page_size + 1), ("fork", 0, 1), ("fork", 0, 2)]
    writes = [("append", 1, 1), ("append", 2, page_size), ("append", 0, 1)]
    cut: Operations = [
        ("fork", 0, 3),
        ("truncate", 3, 0.5),
        ("append", 3, 2),
        ("end", 0, 0),
        ("append", 1, 2),
    ]
    border = [("begin", 4, 0), ("append", 4, page_size), ("append", 4, page_size), ("fork", 4, 5)]
    return [*whole, *writes, *cut, *border, ("append", 4, 1), ("append", 5, 1), ("end", 4, 0)]


def _manager_inputs(rng: np.random.Generator) -> Arrays:
    mixed = [0.06, 0.45, 0.14, 0.12, 0.18, 0.05]
    forking = [0.02, 0.42, 0.25, 0.1, 0.18, 0.03]
    p = int(rng.integers(3, 6))
    full: Operations = [("begin", 0, 0), ("append", 0, 3 * p), ("fork", 0, 1)]
    full += [
        ("append", 0, p + 1),
        ("append", 1, 1),
        ("append", 0, 2),
        ("truncate", 0, 0.9),
        ("append", 1, p),
    ]
    tight = [("begin", 0, 0), ("append", 0, p + 1), ("fork", 0, 1), ("append", 1, 1)]
    tight += [("append", 0, 1), ("end", 0, 0), ("append", 1, 1), ("append", 1, p)]
    cases = [
        {"kind": "no room for a copy", "num_pages": 2, "page_size": p, "operations": tight},
        {"kind": "forks", "num_pages": 20, "page_size": p, "operations": _forked(p)},
        {"kind": "few pages", "num_pages": 5, "page_size": p, "operations": full},
    ]
    for kind, size, chances in (
        ("random", p, mixed), ("random, many forks", p + 1, forking), ("pages of one", 1, mixed)
    ):  # fmt: skip
        cases.append(
            {
                "kind": kind,
                "num_pages": int(rng.integers(13, 22)),
                "page_size": size,
                "operations": _operations(rng, 110, 2 * size + 3, chances),
            }
        )
    return {"cases": cases}


def _requests(rng: np.random.Generator, page_size: int, num_pages: int, count: int) -> Any:
    """Requests with few beginnings and endings, up to three at a time, that always fit."""
    beginnings = [[int(t) for t in rng.integers(0, 50, 2 * page_size)] for _ in range(3)]
    middles = [[int(t) for t in rng.integers(0, 50, page_size)] for _ in range(3)]
    events: list[tuple[str, int, int, list[int]]] = []
    held: dict[int, int] = {}
    for key in range(count):
        tokens = beginnings[int(rng.integers(3))] + middles[int(rng.integers(3))]
        tokens = tokens + middles[int(rng.integers(3))] * int(rng.integers(0, 2))
        tokens = tokens + [int(t) for t in rng.integers(0, 50, int(rng.integers(0, page_size)))]
        pages = -(-len(tokens) // page_size)
        while held and (len(held) == 3 or sum(held.values()) + pages > num_pages):
            events.append(("close", oldest := next(iter(held)), 0, []))
            del held[oldest]
        events.append(("open", key, int(rng.integers(2)), tokens))
        held[key] = pages
        if rng.uniform() < 0.5:
            events.append(("close", key, 0, []))
            del held[key]
    return events


def _one_by_one(requests: list[tuple[int, list[int]]]) -> list[tuple[str, int, int, list[int]]]:
    """Each request is closed before the next is opened."""
    events: list[tuple[str, int, int, list[int]]] = []
    for key, (adapter, tokens) in enumerate(requests):
        events += [("open", key, adapter, tokens), ("close", key, 0, [])]
    return events


def _prefix_inputs(rng: np.random.Generator) -> Arrays:
    p = int(rng.integers(2, 5))

    def text(pages: int) -> list[int]:
        return [int(t) for t in rng.integers(0, 1000, pages * p)]

    a, b, c, d = text(2), text(1), text(2), text(3)
    again = _one_by_one([(0, a), (0, a), (0, [*a, 1]), (1, [*a, 1]), (1, [*a, 2]), (0, [*a, 3])])
    follows = _one_by_one([(0, [*a, *b, 1]), (0, [*c, *b, 1]), (0, [*b, 1]), (0, [*c, *b, 2])])
    # Seven pages: the third request needs two of those that the first two left.
    tail = _one_by_one([(0, [*a, *c]), (0, d), (0, [*text(1), 1]), (0, [*a, *c, 1]), (0, [*d, 1])])
    used = _one_by_one([(0, a), (0, c), (0, [*a, 4]), (0, d), (0, [*a, 5]), (0, [*c, 6])])
    held = [("open", 0, 0, [*a, 1]), ("open", 1, 0, [*a, 2]), ("close", 0, 0, [])]
    held += [("open", 2, 0, c), ("close", 2, 0, []), ("open", 3, 0, d), ("close", 3, 0, [])]
    held += [("close", 1, 0, []), ("open", 4, 0, [*a, 3])]
    kinds = {"the same again": again, "after other beginnings": follows, "a tail goes first": tail,
             "used again": used, "two at a time": held}  # fmt: skip
    cases: list[Arrays] = [
        {"kind": kind, "num_pages": 7, "page_size": p, "events": events}
        for kind, events in kinds.items()
    ]
    events = _requests(rng, p, 15, 40)
    return {
        "cases": [*cases, {"kind": "random", "num_pages": 15, "page_size": p, "events": events}]
    }


def _pages(rng: np.random.Generator, lengths: list[int], p: int, first: list[int]) -> Arrays:
    """Scattered pages; what nobody wrote is nan or infinite, and pages before `first` are gone."""
    G, K = 2, int(rng.choice([4, 6]))
    counts = [-(-length // p) for length in lengths]
    order = [int(page) for page in rng.permutation(sum(counts) + 3)]
    k, v = (normal(rng, len(order), p, G, K) for _ in range(2))
    written = torch.zeros(len(order), p, dtype=torch.bool)
    tables = torch.full((len(lengths), max(counts) + 1), -1)
    for row, (length, count, gone) in enumerate(zip(lengths, counts, first, strict=True)):
        own = [order.pop() for _ in range(count)]
        for t in range(gone * p, length):
            written[own[t // p], t % p] = True
        tables[row, gone:count] = torch.tensor(own[gone:])
    k[~written], v[~written] = torch.nan, torch.inf
    return {
        "k_pages": k,
        "v_pages": v,
        "tables": tables,
        "lengths": torch.tensor(lengths),
    }


def _decode_inputs(rng: np.random.Generator) -> Arrays:
    p = int(rng.integers(3, 6))
    lengths = [3 * p + 1, 1, 2 * p, int(rng.integers(2, 6 * p)), p - 1]

    def case(
        kind: str,
        window: int | None,
        *,
        group: int = 3,
        gone: bool = False,
        size: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> Arrays:
        unseen = [max(0, n - (window or n)) // p if gone else 0 for n in lengths]
        made = _pages(rng, lengths, p, unseen)
        G, K = made["k_pages"].shape[2:]
        made |= {name: made[name].to(dtype) for name in ("k_pages", "v_pages")}
        q: Tensor = size * normal(rng, len(lengths), group * G, K)
        return {"kind": kind, "window": window, "q": q, **made}

    return {
        "cases": [
            case("all tokens", None),
            case("as many key/value heads as heads", None, group=1),
            case("sharp scores", None, size=6.0),
            case("window", p + 1),
            case("window longer than any", 7 * p),
            case("window whose older pages are gone", 2 * p - 1, gone=True),
            case("window of one", 1, gone=True),
            case("bfloat16 pages", None, dtype=torch.bfloat16),
        ]
    }


def _traffic(
    rng: np.random.Generator,
    kind: str,
    sizes: tuple[int, int, int, int],
    count: int,
    *,
    most_prompt: int,
    most_new: int,
    spread: int,
    priorities: int = 1,
    aborts: bool = False,
) -> Arrays:
    """Requests that arrive within `spread` steps, none larger than all pages together."""
    num_pages, page_size, _, _ = sizes
    steps = sorted(int(step) for step in rng.integers(0, spread, size=count))
    steps[0] = 0
    arrivals: dict[str, list[Any]] = {}
    for key, step in enumerate(steps):
        new = int(rng.integers(1, most_new))
        length = int(rng.integers(1, min(most_prompt, num_pages * page_size - new)))
        prompt = [int(token) for token in rng.integers(0, 97, size=length)]
        request = key, prompt, new, int(rng.integers(0, priorities))
        arrivals.setdefault(str(step), []).append(request)
    cut: dict[str, list[int]] = {}
    if aborts:
        for key in range(1, count, 3):
            cut.setdefault(str(steps[key] + int(rng.integers(1, 6))), []).append(key)
    last = max(int(step) for step in (*arrivals, *cut))
    return {"kind": kind, "sizes": sizes, "arrivals": arrivals, "aborts": cut, "last": last}


def _queues(rng: np.random.Generator, p: int) -> list[Arrays]:
    """One that waits for pages before a small one; a long prompt of rank 0 beside who decodes.

    In the last case the long prompt finds too few pages, and the small one would find enough.
    """

    def request(key: int, length: int, most_new: int, priority: int) -> Any:
        return key, [int(t) for t in rng.integers(0, 97, size=length)], most_new, priority

    waits = [request(0, 5 * p, p, 0), request(1, 6 * p, p, 0), request(2, 2, p, 0)]
    short, long = [request(key, p, 4 * p, 1) for key in (0, 1)], request(2, 6 * p, 3, 0)
    rest = {"aborts": {}, "last": 2}
    return [
        {
            "kind": "one waits for pages",
            "sizes": (9, p, 10 * p, 4),
            "arrivals": {"0": waits},
            **rest,
        },
        {
            "kind": "a long prompt of rank 0",
            "sizes": (8, p, 2 * p, 4),
            "arrivals": {"0": short, "2": [long]},
            **rest,
        },
        {
            "kind": "a long prompt of rank 0 and a small one of the last",
            "sizes": (8, p, 3 * p, 4),
            "arrivals": {"0": short, "2": [long], "3": [request(3, 1, 2, 2)]},
            **rest,
            "last": 3,
        },
    ]


def _scheduler_inputs(rng: np.random.Generator) -> Arrays:
    p = int(rng.integers(3, 6))
    few: Any = {"most_prompt": 4 * p, "most_new": 3 * p, "priorities": 3}
    long: Any = {"most_prompt": 60, "most_new": 9, "priorities": 3}
    few_places: Any = {"most_prompt": 20, "most_new": 12}
    plain = _traffic(rng, "room for all", (90, p, 14, 3), 9, spread=6, **few_places)
    return {
        "cases": [
            plain,
            *_queues(rng, p),
            _traffic(rng, "long prompts", (60, p, 7, 4), 9, spread=20, **long),
            _traffic(rng, "few pages", (9, p, 12, 6), 11, spread=9, **few),
            _traffic(rng, "few pages, a small budget", (8, p, 4, 4), 10, spread=15, **few),
            _traffic(rng, "some give up", (9, p, 9, 5), 14, spread=14, aborts=True, **few),
        ]
    }


def _diagnose_inputs(rng: np.random.Generator) -> Arrays:
    faults = every_kind(rng, range(len(FAULTS)), more=4)
    sizes = rng.integers([8, 2], [14, 6], size=(len(faults), 2))
    return {
        "cases": [
            {"fault": fault, "num_pages": int(pages), "page_size": int(size)}
            for fault, (pages, size) in zip(faults, sizes, strict=True)
        ]
    }


def _faults(inputs: Arrays) -> Arrays:
    """The faults that were planted."""
    return {f"manager {i + 1}": FAULTS[case["fault"]] for i, case in enumerate(inputs["cases"])}


_check = partial(exercise, "lab10_paged_attention", hints=HINTS)

LAB = Lab(
    name="lab10_paged_attention",
    teaches=("labkit.inference",),
    forbids=("transformers", "vllm"),
    files=("envelope.json",),
    checks=(
        _check(
            "page_bill", 4, _bill_inputs,
            "count one token's numbers first, then a page's, then pages.",
            tolerance=SUMMED,
        ),
        _check(
            "page_manager", 7, _manager_inputs,
            "keep for each page how many tables have it.",
            symbol="PageManager",
        ),
        _check(
            "prefix_cache", 6, _prefix_inputs,
            "what does a key in a page depend on?",
            symbol="PrefixCache",
        ),
        _check(
            "paged_decode", 6, _decode_inputs,
            "which rows of the gathered pages does each query see?",
            tolerance=FLOAT32,
        ),
        _check(
            "step_scheduler", 7, _scheduler_inputs,
            "simulate two requests on paper, step by step.",
            symbol="StepScheduler",
        ),
        _check(
            "diagnose", 6, _diagnose_inputs,
            "write for each fault the shortest run in which only that fault changes a reply.",
            expect=_faults,
        ),
    ),
)  # fmt: skip
