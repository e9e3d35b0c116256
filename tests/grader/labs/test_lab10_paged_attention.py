"""Lab 10: other right ways pass, planted faults are what their names say, the run is right."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from grader.checks.core import HIDDEN_SEEDS, PUBLIC_SEED, load_lab, run_check, verdicts
from grader.course import Course
from grader.labs.lab10_paged_attention import check, outside, recipe, reference
from labkit.model.minillm import MiniLLM

LAB = load_lab("lab10_paged_attention")
SEEDS = (PUBLIC_SEED, *HIDDEN_SEEDS, *range(8))


def bill_by_formula(
    config: Any, page_size: int, kv: str, memory_bytes: int,
    mean_length: float, length: int, shared: int,
) -> tuple[int, float, int]:  # fmt: skip
    """E[pages] = sum of P(S > j p), a geometric series."""
    numbers = 2 * config.num_layers * config.num_kv_heads * page_size
    size = numbers * {"float32": 4 * config.head_width, "bfloat16": 2 * config.head_width,
                      "int8": config.head_width + 4}[kv]  # fmt: skip
    longer = -math.expm1(page_size * math.log1p(-1 / mean_length))
    pages, batch = memory_bytes // size, 0
    while shared // page_size + (batch + 1) * (
        -(-length // page_size) - shared // page_size
    ) <= pages:  # fmt: skip
        batch += 1
    return size, page_size / longer - mean_length, batch


class ManagerByRecount:
    """Nothing is counted: who has a page is looked up in all tables, every time."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages, self.page_size = num_pages, page_size
        self.open: dict[int, tuple[list[int], int]] = {}

    def _unused(self) -> list[int]:
        used = {page for table, _ in self.open.values() for page in table}
        return [page for page in range(self.num_pages) if page not in used]

    @property
    def free_pages(self) -> int:
        return len(self._unused())

    def table(self, key: int) -> list[int]:
        return self.open[key][0]

    def begin(self, key: int) -> None:
        self.open[key] = [], 0

    def append(self, key: int, count: int) -> list[tuple[int, int]]:
        table, length = self.open[key]
        kept = list(table)
        copied = []
        others = {page for k, (pages, _) in self.open.items() if k != key for page in pages}
        if length % self.page_size and table[-1] in others:
            copied.append(kept.pop())
        wanted = -(-(length + count) // self.page_size) - len(kept)
        if wanted > len(new := self._unused()):
            raise MemoryError
        self.open[key] = [*kept, *new[:wanted]], length + count
        return [(source, new[0]) for source in copied]

    def fork(self, parent: int, child: int) -> None:
        table, length = self.open[parent]
        self.open[child] = list(table), length

    def truncate(self, key: int, length: int) -> None:
        self.open[key] = self.open[key][0][: -(-length // self.page_size)], length

    def end(self, key: int) -> None:
        del self.open[key]


class CacheByWholePrefix:
    """The index is a list of whole prefixes with the time when somebody last had the page."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.p, self.clock = page_size, 0
        self.content: list[Any] = [None] * num_pages
        self.users: list[set[int]] = [set() for _ in range(num_pages)]
        self.left = [0] * num_pages

    def _page(self) -> int:
        unused = [n for n, users in enumerate(self.users) if not users]
        page = min(unused, key=lambda n: (self.content[n] is not None, self.left[n]))
        self.content[page] = None
        return page

    def open(self, key: int, tokens: list[int], adapter: int = 0) -> tuple[int, list[int]]:
        table: list[int] = []
        while (end := (len(table) + 1) * self.p) < len(tokens):
            prefix = (adapter, tokens[:end])
            if prefix not in self.content:
                break
            table.append(self.content.index(prefix))
            self.users[table[-1]].add(key)
        cached = len(table) * self.p
        while len(table) * self.p < len(tokens):
            table.append(self._page())
            self.users[table[-1]].add(key)
            prefix = (adapter, tokens[: len(table) * self.p])
            if len(table) * self.p <= len(tokens) and prefix not in self.content:
                self.content[table[-1]] = prefix
        self.tables = {**getattr(self, "tables", {}), key: table}
        return cached, table

    def close(self, key: int) -> None:
        for page in reversed(self.tables.pop(key)):
            self.users[page].remove(key)
            self.clock += 1
            self.left[page] = self.clock


def decode_in_float64(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, tables: Tensor, lengths: Tensor,
    window: int | None = None,
) -> Tensor:  # fmt: skip
    """One gather of rows by their flat place, a bias of -inf, and where instead of a fill."""
    _, p, G, K = k_pages.shape
    t = torch.arange(tables.shape[1] * p)
    places = tables.repeat_interleave(p, dim=1) * p + t % p
    behind = lengths[:, None] - 1 - t
    seen = (behind >= 0) & (behind < (window or len(t) + 1))
    places = torch.where(seen, places, 0)
    k, v = (
        torch.where(seen[:, :, None, None], x.flatten(0, 1)[places].double(), 0.0)
        for x in (k_pages, v_pages)
    )
    k, v = (x.repeat_interleave(q.shape[1] // G, dim=2) for x in (k, v))
    scores = (q.double()[:, None] * k).sum(-1) / K**0.5 + torch.where(seen, 0.0, -torch.inf)[
        :, :, None
    ]
    return (scores.softmax(1)[..., None] * v).sum(1).float()


class PlanByTable:
    """The same plans from one list of rows, sorted anew at every step."""

    def __init__(self, num_pages: int, page_size: int, token_budget: int, max_batch: int) -> None:
        self.P, self.p, self.budget, self.most = num_pages, page_size, token_budget, max_batch
        self.rows: list[dict[str, Any]] = []
        self.planned: list[tuple[dict[str, Any], int]] = []

    @property
    def free_pages(self) -> int:
        return self.P - sum(row["pages"] for row in self.rows)

    def add(self, key: int, prompt: list[int], most_new: int, priority: int = 0) -> None:
        row = {"key": key, "tokens": list(prompt), "end": len(prompt) + most_new, "pages": 0}
        self.rows.append({**row, "rank": (priority, key), "done": 0, "running": False})
        self.rows.sort(key=lambda row: row["rank"])

    def _fits(self, row: dict[str, Any], count: int) -> bool:
        pages = -(-(row["done"] + count) // self.p)
        if pages - row["pages"] > self.free_pages:
            return False
        row["pages"] = pages
        return True

    def plan(self) -> tuple[list[tuple[int, int, list[int]]], list[int]]:
        self.planned, out, left, short = [], [], self.budget, False
        running = [row for row in self.rows if row["running"]]
        for row in sorted(running, key=lambda r: len(r["tokens"]) - r["done"] > 1):
            count = min(len(row["tokens"]) - row["done"], left)
            idle = [r for r in running if r["running"] and all(r is not x for x, _ in self.planned)]
            after = [r for r, _ in self.planned if r["rank"] > row["rank"]]
            while row["running"] and count and not self._fits(row, count):
                short = True
                if after and idle[-1] is row:
                    count = 0
                    break
                last = idle.pop()
                last |= {"running": False, "done": 0, "pages": 0}
                out.append(last["key"])
            if row["running"] and count:
                self.planned.append((row, count))
                left -= count
        for row in [] if short else [r for r in self.rows if not r["running"]]:
            count = min(len(row["tokens"]), left)
            if sum(r["running"] for r in self.rows) == self.most or not count:
                break
            if not self._fits(row, count):
                break
            row["running"] = True
            self.planned.append((row, count))
            left -= count
        chunks = [(r["key"], r["done"], r["tokens"][r["done"] :][:n]) for r, n in self.planned]
        return chunks, out

    def finish(self, chosen: dict[int, int]) -> list[int]:
        for row, count in self.planned:
            row["done"] += count
            row["tokens"] += [chosen[row["key"]]] if row["key"] in chosen else []
        gone = [row["key"] for row in self.rows if len(row["tokens"]) == row["end"]]
        for key in gone:
            self.abort(key)
        return gone

    def abort(self, key: int) -> None:
        self.rows = [row for row in self.rows if row["key"] != key]


@pytest.mark.parametrize(
    ("name", "impl"),
    [
        ("page_bill", bill_by_formula),
        ("page_manager", ManagerByRecount),
        ("prefix_cache", CacheByWholePrefix),
        ("paged_decode", decode_in_float64),
        ("step_scheduler", PlanByTable),
    ],
)
def test_other_right_ways_pass(name: str, impl: Callable[..., Any]) -> None:
    assert verdicts(LAB.check(name), impl, SEEDS).message == ""


def test_waste_of_long_texts_is_half_a_page() -> None:
    config: Any = type("C", (), {"num_layers": 1, "num_kv_heads": 1, "head_width": 8})
    _, waste, _ = reference.page_bill(config, 16, "float32", 10**6, 3000.0, 100, 0)
    assert waste == pytest.approx(7.5, abs=0.01)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_kind_of_event_is_in_the_traffic(seed: int) -> None:
    """Preemption, waiting for pages and aborts happen; so do refusals and copies."""

    def expected(name: str) -> Any:
        exercise = LAB.check(name)
        return exercise.expected(exercise.inputs(np.random.default_rng(seed)))

    plans, managed, cached = map(expected, ("step_scheduler", "page_manager", "prefix_cache"))
    preempted = [len(plans[key]) for key in plans if "preemptions" in key]
    assert preempted[:2] == [0, 0]
    assert preempted[2] > 0
    assert sum(preempted[4:]) >= 3
    for words in ("refused", "copies"):
        assert sum(int(v.sum()) for key, v in managed.items() if words in key) >= 6
    assert (cached["random: tokens found by each request"] > 0).sum() >= 5


def test_a_scheduler_that_never_ends_is_stopped() -> None:
    class Idle(reference.StepScheduler):
        def plan(self) -> tuple[list[tuple[int, int, list[int]]], list[int]]:
            return [], []

        def finish(self, chosen: dict[int, int]) -> list[int]:
            return []

        def abort(self, key: int) -> None:
            pass

    assert "came to an end" in run_check(LAB.check("step_scheduler"), Idle, 3).message


@pytest.mark.parametrize(
    ("name", "impl", "words"),
    [
        ("page_bill", lambda *_: 3, "(page_bytes, waste, batch)"),
        ("page_bill", lambda *_: (1, 2, 3), "waste: expected float, got int"),
        ("prefix_cache", type("C", (), {"__init__": lambda *_: None, "open": lambda *_: (0, ())}),
         "expected a list of ints"),
        ("paged_decode", lambda q, *_: q[0], "expected outputs of shape"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said(name: str, impl: Any, words: str) -> None:
    assert words in run_check(LAB.check(name), impl, PUBLIC_SEED).message


def replays(num_pages: int, page_size: int) -> list[Callable[[Any], list[Any]]]:
    """The managers of all faults, in their order."""
    sizes = {"num_pages": num_pages, "page_size": page_size}
    cases = [{"fault": fault, **sizes} for fault in range(5)]
    return [case["replay"] for case in outside.managers({"cases": cases})["cases"]]


@pytest.mark.parametrize("page_size", [2, 3, 5])
@pytest.mark.parametrize("num_pages", [8, 13])
def test_every_fault_can_be_told(num_pages: int, page_size: int) -> None:
    found = [reference.diagnose(replay, num_pages, page_size)
             for replay in replays(num_pages, page_size)]  # fmt: skip
    assert found == list(check.FAULTS)


def test_the_healthy_manager_keeps_every_sequences_own_sums() -> None:
    rng = np.random.default_rng(5)
    replay, tokens, operations = replays(40, 3)[0], dict[int, list[int]](), []
    for number in range(120):
        key = int(rng.integers(0, 6))
        if key in tokens and rng.uniform() < 0.15:
            operations.append(("end", key))
            del tokens[key]
        elif key in tokens and number not in tokens and rng.uniform() < 0.2 and len(tokens) < 6:
            child = next(k for k in range(6) if k not in tokens)
            operations.append(("fork", key, child))
            tokens[child] = list(tokens[key])
        elif len(tokens.get(key, [])) < 12:
            more = [int(t) for t in rng.integers(0, 2, size=int(rng.integers(1, 5)))]
            operations.append(("write", key, more))
            tokens[key] = tokens.get(key, []) + more
    replies = replay([*operations, *(("read", key) for key in tokens)])
    assert replies[len(operations) :] == [np.cumsum(t).tolist() for t in tokens.values()]
    assert replay([*operations, *(("end", key) for key in tokens)])[-1] == 40


@pytest.mark.parametrize(
    ("operations", "words"),
    [
        (3, "a list of operations"),
        ([("sing", 0)], "begins with one of"),
        ([("end", 0)], "there is no sequence 0"),
        ([("write", 0)], "takes 2 values"),
        ([("write", 0, [])], "one token or more"),
        ([("write", 0, [0.5])], "one token or more"),
        ([("write", 0, [1]), ("fork", 0, 0)], "a key that nobody has"),
        ([("write", 0, [1] * 50)], "no page is free"),
    ],
)
def test_a_manager_says_what_it_cannot_do(operations: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replays(8, 2)[0](operations)


def small_recipe() -> recipe.Recipe:
    return recipe.Recipe(requests=5, most_prompt=7, most_new=6, num_pages=4, page_size=4,
                         token_budget=5, max_batch=3)  # fmt: skip


def test_the_run_gives_each_request_the_text_that_it_gets_alone(tiny_model: MiniLLM) -> None:
    settings = small_recipe()
    sizes = settings.num_pages, settings.page_size
    V = tiny_model.config.vocab_size
    rng = np.random.default_rng(3)
    requests = [
        recipe.Request([int(t) for t in rng.integers(0, V, size=n)], new)
        for n, new in ((7, 6), (3, 5), (1, 6), (6, 2), (5, 6))
    ]
    scheduler = reference.StepScheduler(*sizes, settings.token_budget, settings.max_batch)
    manager = ManagerByRecount(*sizes)
    parts = scheduler, manager, decode_in_float64
    steps = list(recipe.serve(tiny_model, requests, *parts, settings))
    assert sum(step.tokens for step in steps) > recipe.once(requests)  # somebody was preempted
    assert max(step.used_pages for step in steps) <= settings.num_pages
    assert manager.free_pages == settings.num_pages
    for request, mine in zip(requests, recipe.answers(steps, len(requests)), strict=True):
        ids = list(request.prompt)
        for _ in range(request.most_new):
            with torch.no_grad():
                ids.append(int(tiny_model(torch.tensor([ids]))[0, -1].argmax()))
        assert mine == ids[len(request.prompt) :]
    shares = recipe.written(steps, requests, settings)
    assert shares == sorted(shares)


def test_a_plan_of_nothing_does_not_run_for_ever(tiny_model: MiniLLM) -> None:
    class Nothing(reference.StepScheduler):
        def plan(self) -> tuple[list[tuple[int, int, list[int]]], list[int]]:
            return [], []

    settings = small_recipe()
    parts = Nothing(6, 4, 5, 3), reference.PageManager(6, 4), reference.paged_decode
    run = recipe.serve(tiny_model, [recipe.Request([1], 1)], *parts, settings)
    with pytest.raises(ValueError, match="an empty plan"):
        next(run)


def test_the_envelope_is_the_recipes_and_never_above_what_can_be(real_course: Course) -> None:
    beside = real_course.source(LAB.name).with_name("envelope.json")
    envelope = json.loads(beside.read_text(encoding="utf-8"))
    progress = recipe.Recipe().progress
    runs = np.array(envelope["runs"])
    assert tuple(envelope["progress"]) == progress
    assert runs.shape == (len(recipe.ENVELOPE_SEEDS), len(progress))
    assert (runs <= np.minimum(1, progress) + 0.02).all()
    assert (np.diff(runs, axis=1) >= 0).all()
    assert (runs[:, -1] > 0.95).all()
