"""Lab 02: other right ways pass, counts agree with torch's, planted faults are what they say."""

import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from grader.checks.core import HIDDEN_SEEDS, PUBLIC_SEED, load_lab, verdicts
from grader.course import Course
from grader.labs.lab02_pretraining import check, outside, recipe, reference
from labkit.model.config import ModelConfig
from labkit.model.minillm import MiniLLM
from labkit.training.efficiency import checkpointing

LAB = load_lab("lab02_pretraining")
SEEDS = (PUBLIC_SEED, *HIDDEN_SEEDS, 11, 12)


def encoded_in_one_walk(word: list[int], merges: list[tuple[int, int, int]]) -> list[int]:
    """A merge makes a token that only later merges hold, so one walk through the list is enough."""
    ids = list(word)
    for a, b, new in merges:
        i = 0
        while i + 1 < len(ids):
            if ids[i] == a and ids[i + 1] == b:
                ids[i : i + 2] = [new]
            i += 1
    return ids


def within_by_loops(logits: Tensor, ids: Tensor, documents: Tensor) -> tuple[Tensor, Tensor, int]:
    B, T = ids.shape
    mask = torch.zeros(B, T, T, dtype=torch.bool)
    losses = []
    for row in range(B):
        for t in range(T):
            for s in range(t + 1):
                mask[row, t, s] = documents[row, s] == documents[row, t]
            if t and documents[row, t] == documents[row, t - 1] != -1:
                losses.append(-logits[row, t - 1].log_softmax(0)[ids[row, t]])
    return mask, torch.stack(losses).sum(), len(losses)


def rate_by_interpolation(step: int, peak: float, steps: int, warmup: int, stable: int) -> float:
    """The two straight parts as one polygon."""
    if step >= steps:
        return 0.0
    top = warmup + stable
    if step < top:
        return float(np.interp(step, [-1, warmup - 1, top], [0.0, peak, peak])) if warmup else peak
    return peak * math.cos(math.pi / 2 * (step - top) / (steps - top)) ** 2


@pytest.mark.parametrize(
    ("name", "impl"),
    [
        ("encode_word", encoded_in_one_walk),
        ("within_documents", within_by_loops),
        ("learning_rate", rate_by_interpolation),
    ],
)
def test_other_right_ways_pass(name: str, impl: Callable[..., Any]) -> None:
    assert verdicts(LAB.check(name), impl, SEEDS).message == ""


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("tied", [True, False])
def test_the_operations_are_those_torch_counts(tied: bool, recompute: bool) -> None:
    sizes = {"width": 40, "num_layers": 3, "num_heads": 6, "num_kv_heads": 2, "head_width": 10}
    config = ModelConfig(vocab_size=70, ffn_width=100, tie_embeddings=tied, **sizes)
    model, text = MiniLLM(config), torch.zeros(1, 33, dtype=torch.long)
    blocks = checkpointing.checkpointed(model) if recompute else nullcontext()
    # The fused kernel for the CPU is no product that torch counts.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, blocks:
        model(text).sum().backward()
    operations, share = reference.training_flops(config, 33, recompute=recompute)
    assert operations == counter.get_total_flops()
    assert share == 6 * 33 * sum(p.numel() for p in model.parameters()) / operations


def loops(vocab_size: int) -> list[Any]:
    """The training loops of all faults, in their order."""
    cases = [{"fault": fault, "vocab_size": vocab_size} for fault in range(5)]
    return [SimpleNamespace(**case) for case in outside.loops({"cases": cases})["cases"]]


def test_only_the_healthy_loop_is_gradient_descent(gen: torch.Generator) -> None:
    V, warmup, steps = 7, 3, 6
    ids = torch.randint(V, (4, 9), generator=gen)
    given, targets = ids[:, :-1].flatten(), ids[:, 1:].flatten()
    table = torch.nn.Parameter(torch.zeros(V, V, dtype=torch.float64))
    expected = []
    for step in range(steps):
        loss = torch.nn.functional.cross_entropy(table[given], targets, ignore_index=0)
        expected.append(loss.detach())
        [gradient] = torch.autograd.grad(loss, [table])
        table.data -= 0.7 * min(1, (step + 1) / warmup) * gradient
    found = [loop.train(ids, 0.7, warmup, steps) for loop in loops(V)]
    same = [torch.allclose(losses, torch.stack(expected)) for losses in found]
    assert same == [True, False, False, False, False]


@pytest.mark.parametrize("vocab_size", range(6, 10))
def test_every_fault_can_be_told(vocab_size: int) -> None:
    assert [reference.diagnose(loop) for loop in loops(vocab_size)] == list(check.FAULTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": torch.tensor([[1.0, 2.0]])}, "int64"),
        ({"ids": torch.tensor([[1, 99]])}, "each from 0 to 5"),
        ({"ids": torch.tensor([[1, 0]])}, "all that follow are padding"),
        ({"lr": 0.0}, "lr must be"),
        ({"warmup": 0.5}, "whole number"),
        ({"steps": 1000}, "steps must be"),
    ],
)
def test_a_loop_says_what_it_cannot_take(change: dict[str, Any], message: str) -> None:
    given = {"ids": torch.tensor([[1, 2]]), "lr": 0.1, "warmup": 1, "steps": 3} | change
    with pytest.raises(ValueError, match=message):
        loops(6)[0].train(*given.values())


def test_the_recipes_coder_gives_the_text_back() -> None:
    some = ["def f(x):\n    return x", "the thé, the theatre"]
    merges = recipe.learn_merges(reference.merge_step, some, 9)
    coder = recipe.Coder(reference.encode_word, merges)
    assert [coder.text(coder.encode(text)) for text in some] == some
    assert coder.encode("")[-1] == coder.end == coder.vocab_size - 1


def test_the_envelope_is_the_recipes(real_course: Course) -> None:
    beside = real_course.source(LAB.name).with_name("envelope.json")
    envelope = json.loads(beside.read_text(encoding="utf-8"))
    runs, plan = np.array(envelope["runs"]), recipe.Recipe()
    assert envelope["steps"] == [*range(0, plan.steps, plan.every), plan.steps]
    assert runs.shape == (len(recipe.ENVELOPE_SEEDS), len(envelope["steps"]))
    assert (runs[:, 0] > runs[:, -1] + 1).all()
    assert np.ptp(runs[:, -1]) < 0.8
