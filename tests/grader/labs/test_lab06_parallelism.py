"""Lab 06: other right ways pass, its figures are the papers' and labkit's, faults are named."""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from grader.checks.core import HIDDEN_SEEDS, PUBLIC_SEED, load_lab, run_check, verdicts
from grader.checks.explain import ContractError
from grader.course import Course
from grader.labs.lab06_parallelism import check, outside, recipe, reference
from grader.labs.lab06_parallelism.given import Rank, on_ranks
from labkit.training.parallel import schedules

LAB = load_lab("lab06_parallelism")
SEEDS = (PUBLIC_SEED, *HIDDEN_SEEDS, *range(12))


def ring_by_message(
    x: Tensor, rank: int, n: int, send: Callable[[Tensor, int], None], receive: Callable[[int], Any]
) -> tuple[Tensor, Tensor]:
    """What came last goes on; the number of the chunk follows from how often it has moved."""
    parts = x.reshape(-1).tensor_split(n)
    below, above = (rank or n) - 1, (rank + 1) % n
    passing = parts[above].clone() if n > 1 else parts[0].clone()
    for hop in range(1, n):
        send(passing, below)
        passing = receive(above) + parts[(above + hop) % n]
    found = {rank: passing}
    for hop in range(1, n):
        send(passing, below)
        passing = found[(rank + hop) % n] = receive(above)
    return found[rank], torch.cat([found[c] for c in range(n)]).reshape(x.shape)


def bill_by_listing(
    units: Sequence[int], frozen: int, n: int, stage: int, m: int
) -> tuple[int, int, int, int]:
    """Every pass over every unit, one after another."""
    held, sent = [2 * frozen, 0, 0], 0
    for unit in units:
        padded = unit + (n - unit % n) % n
        divided = [stage == 3, stage in (2, 3), stage != 0]
        for kind, (nbytes, is_divided) in enumerate(zip((2, 2, 12), divided, strict=True)):
            held[kind] += nbytes * (padded // n if is_divided else padded)
        one = (n - 1) * 2 * padded // n
        for _ in range(m):
            sent += one if stage >= 2 else 0
            sent += 2 * one if stage == 3 else 0
        sent += one if stage < 2 else 0
        sent += one if stage < 3 else 0
    return held[0], held[1], held[2], sent


class StraightThrough(nn.Module):
    """No autograd function: a detached difference corrects the value, a hook the gradient."""

    def __init__(
        self, gate_up: Tensor, down: Tensor, bias: Tensor, rank: int, n: int, all_reduce: Any
    ) -> None:
        super().__init__()
        D, F = down.shape
        split = gate_up.detach().view(2, n, F // n, D)
        self.gate_up = nn.Parameter(split[:, rank].reshape(-1, D))
        self.down = nn.Parameter(down.detach().view(D, n, F // n)[:, rank].clone())
        self.bias = nn.Parameter(bias.detach().clone())
        self.all_reduce = all_reduce

    def forward(self, x: Tensor) -> Tensor:
        entered = x * 1.0
        entered.register_hook(self.all_reduce)
        gate, up = torch.einsum("btd,fd->btf", entered, self.gate_up).tensor_split(2, dim=-1)
        own = torch.einsum("btf,df->btd", gate * gate.sigmoid() * up, self.down)
        return own + (self.all_reduce(own) - own).detach() + self.bias


def loss_in_two_calls(
    logits: Tensor, targets: Tensor, start: int, vocab_size: int, all_reduce: Any
) -> tuple[Tensor, Tensor]:
    """The sum of exponentials and the target's logit travel together."""
    tokens = torch.arange(start, start + logits.shape[1])
    z = torch.where(tokens < vocab_size, logits, -math.inf).requires_grad_()
    top = all_reduce(z.detach().max(1).values, "max")
    own = (z - top[:, None]).exp().sum(1)
    rows, columns = (tokens == targets[:, None]).nonzero(as_tuple=True)
    picked = torch.zeros(len(z)).index_put((rows,), z.detach()[rows, columns] - top[rows])
    total, target = all_reduce(torch.stack((own, picked)), "sum")
    losses = (total.log() - target).masked_fill(targets == -100, 0.0)
    [gradient] = torch.autograd.grad(((targets != -100) * own / total).sum(), z)
    gradient[rows, columns] -= 1.0
    return losses, gradient


def schedule_from_the_timeline(rank: int, p: int, m: int) -> tuple[list[str], int, float]:
    """Warm-up, alternation, end; the idle share measured on labkit's clock."""
    ahead = min(m, p - rank)
    names = [f"F{i}" for i in range(ahead)]
    for i in range(m):
        names += [f"B{i}"] + ([f"F{ahead + i}"] if ahead + i < m else [])
    spans = schedules.timeline(schedules.one_forward_one_backward(p, m), backward_cost=1.0)
    end = max(span.end for span in spans)
    busy = sum(span.end - span.start for span in spans if span.rank == rank)
    return names, ahead, 1 - busy / end


@pytest.mark.parametrize(
    ("name", "impl"),
    [
        ("ring_all_reduce", ring_by_message),
        ("zero_bill", bill_by_listing),
        ("parallel_ffn", StraightThrough),
        ("parallel_cross_entropy", loss_in_two_calls),
        ("pipeline_schedule", schedule_from_the_timeline),
    ],
)
def test_other_right_ways_pass(name: str, impl: Callable[..., Any]) -> None:
    assert verdicts(LAB.check(name), impl, SEEDS).message == ""


@pytest.mark.parametrize("seed", SEEDS)
def test_a_ring_ends_with_the_sum_and_sends_what_the_formula_says(seed: int) -> None:
    inputs = LAB.check("ring_all_reduce").inputs(np.random.default_rng(seed))
    found = LAB.check("ring_all_reduce").expected(inputs)
    for parts in inputs["rings"]:
        n, total = len(parts), torch.stack(parts).double().sum(0)
        for own_number, own in enumerate(found[f"{n} ranks: own chunk of each rank"]):
            wanted = total.flatten().tensor_split(n)[own_number].float()
            torch.testing.assert_close(own, wanted, rtol=1e-5, atol=1e-5)
        for got in found[f"{n} ranks: total on each rank"]:
            torch.testing.assert_close(got, total.float(), rtol=1e-5, atol=1e-5)
        sent = found[f"{n} ranks: bytes that each sends"]
        assert sum(sent) == 2 * (n - 1) * parts[0].nbytes
        assert found[f"{n} ranks: all end with the same bits"]


def test_the_bill_is_that_of_the_papers_figure_1() -> None:
    """arXiv 1910.02054: 120, 31.4, 16.6 and 1.9 GB for 7.5 billion parameters on 64 ranks."""
    bills = [reference.zero_bill([7_500_000_000], 0, 64, stage, 1) for stage in range(4)]
    assert [round(sum(bill[:3]) / 1e9, 1) for bill in bills] == [120.0, 31.4, 16.6, 1.9]
    assert [bill[3] / bills[0][3] for bill in bills] == [1.0, 1.0, 1.0, 1.5]


@pytest.mark.parametrize(("stage", "ranks"), [(1, 7), (2, 4), (3, 3)])
def test_the_written_answers_ranks_are_the_fewest_that_fit(stage: int, ranks: int) -> None:
    held = [
        sum(reference.zero_bill([7_500_000_000], 0, n, stage, 1)[:3]) for n in (ranks - 1, ranks)
    ]
    assert held[0] > 44e9 >= held[1]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_split_layer_is_the_whole_one(seed: int) -> None:
    inputs = LAB.check("parallel_ffn").inputs(np.random.default_rng(seed))
    found = LAB.check("parallel_ffn").expected(inputs)
    for case in inputs["cases"]:
        leaves = [case[k].clone().requires_grad_() for k in ("gate_up", "down", "bias", "x")]
        gate_up, down, bias, x = leaves
        gate, up = nn.functional.linear(x, gate_up).chunk(2, dim=-1)
        y = nn.functional.linear(nn.functional.silu(gate) * up, down, bias)
        wanted = torch.autograd.grad((y * case["probe"]).sum(), leaves)
        n = case["n"]
        parts = {
            "output": [y.detach()] * n,
            "gradient of x": [wanted[3]] * n,
            "gradient of bias": [wanted[2]] * n,
            "gradient of down": wanted[1].chunk(n, dim=1),
            "gradient of gate_up": [
                torch.cat(pair)
                for pair in zip(*(half.chunk(n) for half in wanted[0].chunk(2)), strict=True)
            ],
        }
        for name, tensors in parts.items():
            for got, expected in zip(found[f"{n} ranks: {name}"], tensors, strict=True):
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_split_loss_is_the_whole_one(seed: int) -> None:
    inputs = LAB.check("parallel_cross_entropy").inputs(np.random.default_rng(seed))
    found = LAB.check("parallel_cross_entropy").expected(inputs)
    for case in inputs["cases"]:
        V, widths = case["vocab_size"], [part.shape[1] for part in case["parts"]]
        whole = torch.cat(case["parts"], dim=1)[:, :V].double().requires_grad_()
        losses = nn.functional.cross_entropy(whole, case["targets"], reduction="none")
        [gradient] = torch.autograd.grad(losses.sum(), whole)
        padded = torch.cat((gradient, gradient.new_zeros(len(whole), sum(widths) - V)), dim=1)
        kind = case["kind"]
        for got in found[f"{kind}: losses on each rank"]:
            torch.testing.assert_close(got, losses.detach().float(), rtol=1e-4, atol=1e-4)
        got = torch.cat(found[f"{kind}: gradient on each rank"], dim=1)
        torch.testing.assert_close(got, padded.float(), rtol=1e-4, atol=1e-5)
        assert not set(found[f"{kind}: numbers that each hands to all_reduce"]) - {3 * len(whole)}


def test_ranks_that_wait_for_each_other_are_told_so() -> None:
    def silent(x: Tensor, rank: int, n: int, send: Any, receive: Callable[[int], Any]) -> Any:
        return receive((rank + 1) % n), x

    verdict = run_check(LAB.check("ring_all_reduce"), silent, PUBLIC_SEED)
    assert "nobody will ever send it" in verdict.message or "another of 0 to 0" in verdict.message


def test_an_error_on_one_rank_is_the_one_that_is_shown() -> None:
    def program(rank: Rank) -> Tensor:
        if rank.index == 1:
            raise KeyError("mine")
        return rank.receive(1)

    with pytest.raises(KeyError, match="mine"):
        on_ranks(3, program)


@pytest.mark.parametrize("late", range(3))
def test_the_lowest_rank_is_the_one_that_is_told_whoever_comes_first(late: int) -> None:
    def wait(rank: Rank) -> Any:
        time.sleep(0.02 * (rank.index == late))
        return rank.receive((rank.index + 1) % 3)

    def fail(rank: Rank) -> Any:
        time.sleep(0.02 * (rank.index == late))
        raise KeyError(f"of rank {rank.index}")

    with pytest.raises(ContractError, match="rank 0 of 3 waits for a message from rank 1"):
        on_ranks(3, wait)
    with pytest.raises(KeyError, match="of rank 0"):
        on_ranks(3, fail)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (lambda rank: rank.receive(0), "nobody will ever send it|another of 0 to 1"),
        (lambda rank: rank.send(torch.ones(1), 2), "expected another of 0 to 1"),
        (lambda rank: rank.send([1.0], 1 - rank.index), "expected a tensor, got list"),
        (lambda rank: rank.all_reduce(torch.ones(rank.index + 1)), "shapes or dtypes differ"),
        (lambda rank: rank.all_reduce(torch.ones(1), "mean"), 'expected op "sum" or "max"'),
    ],
)
def test_what_a_rank_cannot_do_is_said(program: Callable[[Rank], Any], words: str) -> None:
    with pytest.raises(ContractError, match=words):
        on_ranks(2, program)


def test_messages_are_copies_in_the_order_in_which_they_were_sent() -> None:
    def program(rank: Rank) -> list[float]:
        x = torch.zeros(1)
        for number in range(3):
            x.fill_(number)
            rank.send(x, 1 - rank.index)
        return [rank.receive(1 - rank.index).item() for _ in range(3)]

    found, ranks = on_ranks(2, program)
    assert found == [[0.0, 1.0, 2.0]] * 2
    assert ranks[0].sent == [(1, 4)] * 3


def steps(n: int, m: int) -> list[Callable[..., Tensor]]:
    """The steps of all faults, in their order."""
    cases = [{"fault": fault, "n": n, "m": m} for fault in range(5)]
    return [case["step"] for case in outside.steps({"cases": cases})["cases"]]


def test_only_the_healthy_step_is_one_process(gen: torch.Generator) -> None:
    n, m, D = 3, 4, 2
    w = torch.randn(D, generator=gen, requires_grad=True)
    x, y = torch.randn(n, m, D, generator=gen), torch.randn(n, m, generator=gen)
    (0.5 * (x @ w - y).square()).mean().backward()
    assert w.grad is not None
    expected = (w - 0.1 * w.grad).detach().expand(n, D)
    moved = [step(w.detach(), x, y) for step in steps(n, m)]
    same = [torch.allclose(weights, expected, atol=1e-6) for weights in moved]
    assert same == [True, False, False, False, False]


def test_an_early_reduction_is_right_where_nothing_is_accumulated(gen: torch.Generator) -> None:
    w, x, y = torch.ones(2), torch.randn(3, 1, 2, generator=gen), torch.zeros(3, 1)
    healthy, _, early, *_ = steps(3, 1)
    torch.testing.assert_close(early(w, x, y), healthy(w, x, y))


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("m", [2, 3, 4])
def test_every_fault_can_be_told(n: int, m: int) -> None:
    assert [reference.diagnose(step, n, m) for step in steps(n, m)] == list(check.FAULTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": torch.zeros(1, 1)}, "expected shapes"),
        ({"x": torch.zeros(2, 2, 1)}, "expected shapes"),
        ({"y": torch.zeros(3, 2, dtype=torch.long)}, "tensors of floats"),
        ({"y": [[0.0, 0.0]] * 3}, "tensors of floats"),
    ],
)
def test_a_step_says_what_it_cannot_take(change: dict[str, Any], message: str) -> None:
    given = {"weights": torch.zeros(1), "x": torch.zeros(3, 2, 1), "y": torch.zeros(3, 2)} | change
    with pytest.raises(ValueError, match=message):
        steps(3, 2)[0](*given.values())


SMALL = recipe.Recipe(model="mini", steps=2, rows=1, length=16, held_out=2, bucket_bytes=2**20)


def test_two_processes_are_one_and_send_what_the_formula_says(tmp_path: Path) -> None:
    alone = recipe.fresh(SMALL)
    size = sum(p.nbytes for p in alone.model.parameters())
    wanted = list(recipe.one_process(alone, SMALL, 3))
    ways = reference.ring_all_reduce, reference.bucket_timeline
    found = list(recipe.several_processes(*ways, SMALL, 3, tmp_path))
    for ours, theirs in zip(found, wanted, strict=True):
        assert math.isclose(ours.loss_nats, theirs.loss_nats, rel_tol=1e-5)
        assert math.isclose(ours.held_out_nats, theirs.held_out_nats, rel_tol=1e-5)
        assert math.isclose(ours.sent_bytes, size, rel_tol=0.01)


def test_a_sum_for_a_mean_is_seen_in_the_loss(tmp_path: Path) -> None:
    def doubled(*arguments: Any) -> tuple[Tensor, Tensor]:
        own, total = reference.ring_all_reduce(*arguments)
        return own, 2 * total

    wanted = list(recipe.one_process(recipe.fresh(SMALL), SMALL, 3))
    found = list(recipe.several_processes(doubled, reference.bucket_timeline, SMALL, 3, tmp_path))
    assert not math.isclose(found[-1].held_out_nats, wanted[-1].held_out_nats, rel_tol=1e-4)


def test_the_envelope_is_the_recipes_and_smollm2_learns(real_course: Course) -> None:
    beside = real_course.source(LAB.name).with_name("envelope.json")
    envelope = json.loads(beside.read_text(encoding="utf-8"))
    assert tuple(envelope["seeds"]) == recipe.ENVELOPE_SEEDS
    for wanted in (recipe.Recipe(), recipe.small()):
        runs = np.array(envelope["runs"][wanted.model])
        assert runs.shape == (len(recipe.ENVELOPE_SEEDS), wanted.steps)
        assert wanted.model == "mini" or (runs[:, -1] < runs[:, 0]).all()
