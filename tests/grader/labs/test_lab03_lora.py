"""Lab 03: right answers of other kinds pass, and objects that cannot be used are named as such."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from grader.checks.core import HIDDEN_SEEDS, PUBLIC_SEED, run_check, verdicts
from grader.labs.lab03_lora import reference
from grader.labs.lab03_lora.check import LAB

SEEDS = (PUBLIC_SEED, *HIDDEN_SEEDS, *range(60))
Mutants = Callable[[str, str], dict[str, Any]]


class Layer(nn.Module):
    """A right layer whose parts the subclasses write in other ways."""

    def __init__(
        self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        down = torch.randn(rank, base.in_features, generator=generator)
        self.lora_A = nn.Parameter(down / math.sqrt(base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        self.rank, self.alpha = rank, alpha

    def forward(self, x: Tensor) -> Tensor:
        narrow = nn.functional.linear(x, self.lora_A) * (self.alpha / self.rank)
        return self.base(x) + nn.functional.linear(narrow, self.lora_B)


class Einsum(Layer):
    def forward(self, x: Tensor) -> Tensor:
        narrow = torch.einsum("bti,ri->btr", x, self.lora_A)
        wide = torch.einsum("btr,or->bto", narrow, self.lora_B)
        return wide.mul(self.alpha).div(self.rank) + self.base(x)


class WritesTheBaseOut(Layer):
    def forward(self, x: Tensor) -> Tensor:
        plain = nn.functional.linear(x, self.base.weight, self.base.bias)
        return plain + (x @ self.lora_A.t()) @ self.lora_B.t() * self.alpha / self.rank


class FlatRows(Layer):
    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        out = self.base(rows).addmm(
            rows @ self.lora_A.T, self.lora_B.T, alpha=self.alpha / self.rank
        )
        return out.view(*x.shape[:-1], -1)


class Submodules(Layer):
    """Factors inside linear layers, shown under the names that were asked for."""

    def __init__(
        self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator
    ) -> None:
        super().__init__(base, rank, alpha, generator)
        self.up = nn.Linear(rank, base.out_features, bias=False, device="meta")
        self.up.weight = self.lora_B

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.alpha / self.rank * (x @ self.lora_A.T))


def by_outer_products(A: Tensor, B: Tensor, alpha: float, use_rslora: bool = False) -> Tensor:
    total = torch.stack([torch.outer(b, a) for a, b in zip(A, B.T, strict=True)]).sum(0)
    return total * alpha * len(A) ** (-0.5 if use_rslora else -1)


def by_parents(model: nn.Module, make_layer: Any, targets: Any) -> tuple[int, int]:
    """Freezes before it looks, and walks parents and their children."""
    model.requires_grad_(False)
    found = False
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if name in targets and isinstance(child, nn.Linear):
                setattr(parent, name, make_layer(child))
                found = True
    if not found:
        raise ValueError(f"nothing is called {targets}")
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)


def merged_in_float64(weight: Tensor, A: Tensor, B: Tensor, scaling: float) -> Tensor:
    return (weight.double() + scaling * (B.double() @ A.double())).to(weight.dtype)


def diagnosed_on_a_copy(layer: Any, alpha: float) -> str:
    if any(p.requires_grad for p in layer.base.parameters()):
        return "base_trains"
    twin = copy.deepcopy(layer)
    x = torch.randn(5, twin.lora_A.shape[1], generator=torch.Generator().manual_seed(3))
    if not torch.allclose(twin(x), twin.base(x), atol=1e-5):
        return "not_identity"
    twin(x).pow(2).sum().backward()
    if not any(bool(p.grad.any()) for p in (twin.lora_A, twin.lora_B)):
        return "dead"
    with torch.no_grad():
        for p in (twin.lora_A, twin.lora_B):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(4)))
        should = alpha / len(twin.lora_A) * x @ twin.lora_A.T @ twin.lora_B.T
        right = torch.allclose(twin(x) - twin.base(x), should, rtol=1e-3, atol=1e-3)
    return "healthy" if right else "wrong_scaling"


def step_by_hand(model: Any, micro_batches: Any, optimizer: Any, clip_norm: float) -> float:
    """Sums first, divides gradients afterwards, skips what has no token, clips by hand."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter in parameters:
        parameter.grad = None
    total, counted = 0.0, 0
    for ids, labels in micro_batches:
        kept = labels[:, 1:] != -100
        if not kept.any():
            continue
        logs = model(ids[:, :-1]).log_softmax(-1)
        picked = logs.gather(-1, labels[:, 1:].clamp(min=0)[..., None])[..., 0]
        loss = -(picked * kept).sum()
        loss.backward()
        total, counted = total + loss.item(), counted + int(kept.sum())
    for parameter in parameters:
        parameter.grad /= counted
    norm = torch.stack([p.grad.norm() for p in parameters]).norm()
    for parameter in parameters:
        parameter.grad *= min(1.0, clip_norm / float(norm))
    optimizer.step()
    return total / counted


VARIANTS: list[tuple[str, Any]] = [
    ("lora_delta", by_outer_products),
    *(("lora_linear", kind) for kind in (Layer, Einsum, WritesTheBaseOut, FlatRows, Submodules)),
    ("apply_lora", by_parents),
    ("merge_weight", merged_in_float64),
    ("diagnose", diagnosed_on_a_copy),
    ("train_step", step_by_hand),
]


@pytest.mark.parametrize(("name", "impl"), VARIANTS)
def test_right_answers_of_another_kind_pass(name: str, impl: Any) -> None:
    assert verdicts(LAB.check(name), impl, SEEDS).message == ""


class LinearFactors(Layer):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        del self.lora_A
        self.lora_A = nn.Linear(self.base.in_features, self.rank, bias=False)


class Transposed(Layer):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.lora_A = nn.Parameter(self.lora_A.detach().T.clone())


class PlainTensors(Layer):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        down = self.lora_A.detach()
        del self.lora_A
        self.lora_A = down


class NoGradient(Layer):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(x)


class FrozenFactor(Layer):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.lora_B.requires_grad_(False)


class Narrow(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flatten(0, 1)


MISUSES: list[tuple[str, Any, str]] = [
    ("lora_delta", lambda *a, **k: None, "delta: expected torch.Tensor of float32, shape ("),
    ("merge_weight", lambda *a: None, "merge_weight: expected a tensor, got nothing."),
    ("lora_linear", LinearFactors, "lora_A: expected an nn.Parameter of shape (R, I) = ("),
    ("lora_linear", LinearFactors, "got an object of type Linear."),
    ("lora_linear", Transposed, "got Parameter of shape ("),
    ("lora_linear", PlainTensors, "got Tensor of shape ("),
    ("lora_linear", NoGradient, "the output does not depend on a trainable parameter"),
    ("lora_linear", FrozenFactor, "exactly lora_A and lora_B should train; what trains is lora_A."),
    ("lora_linear", Narrow, "forward: expected shape (2, 7, "),
    ("lora_linear", lambda *a: "a layer", "expected an nn.Module, got an object of type str."),
    (
        "apply_lora",
        lambda *a: [1, 2],
        "expected a tuple (trainable, total), got an object of type list",
    ),
    ("train_step", lambda *a: None, "the loss of a plain step: expected float, got None."),
]


@pytest.mark.parametrize(("name", "impl", "words"), MISUSES)
def test_an_object_that_cannot_be_used_is_named(name: str, impl: Any, words: str) -> None:
    message = run_check(LAB.check(name), impl, PUBLIC_SEED).message
    assert words in message
    assert "raised" not in message


FINDINGS: list[tuple[str, str, str]] = [
    ("lora_delta", "scales a factor in place", "the factors are left unchanged: it was changed"),
    (
        "lora_linear",
        "draws one number more than it needs",
        "the global random state is left unchanged",
    ),
    ("lora_linear", "draws from a seed of its own", "another generator gives another lora_A"),
    ("lora_linear", "starts the generator again", "a second layer from one generator"),
    ("lora_linear", "takes lora_A from an nn.Linear", "making an nn.Linear draws from the global"),
    ("lora_linear", "copies the base", "Hint: store the layer that was given, not a copy"),
    ("lora_linear", "builds the update transposed", "without an (O, I) update: this must hold"),
    ("lora_linear", "multiplies x with the whole update", "without an (O, I) update"),
    ("lora_linear", "adds the update to the weight", "without an (O, I) update"),
    ("lora_linear", "no gradient through the base", "the gradient of the input"),
    ("lora_linear", "no gradient to x through the factors", "the gradient of the input"),
    ("apply_lora", "a KeyError with the names", "targets that match nothing raise ValueError"),
    ("apply_lora", "an error with the first name only", "that error's text has every name"),
    ("apply_lora", "misses a layer at the top", "q_proj is wrapped: this must hold"),
    ("apply_lora", "total without the adapter", "the number of all parameters, counts[1]"),
    ("diagnose", "takes a zero A for a dead adapter", "(lora_A zero, lora_B random, base frozen)"),
    ("diagnose", "looks at the base's weight only", "base trains: bias)"),
    ("diagnose", "freezes the base it looks at", "requires_grad left unchanged"),
    ("diagnose", "leaves gradients behind", ".grad left unchanged"),
    ("train_step", "clips each group by its own norm", "Hint: clip once, after all micro-batches"),
    ("train_step", "stale gradients", "Hint: what was in .grad before"),
    ("train_step", "weighs means, of which one is nan", "nan or infinite"),
    ("train_step", "pads all into one batch", "the model sees one micro-batch at a time"),
    ("train_step", "one backward for all", "backward runs before the next micro-batch"),
]


@pytest.mark.parametrize(("name", "mutant", "words"), FINDINGS)
def test_the_message_names_the_finding(
    mutants: Mutants, name: str, mutant: str, words: str
) -> None:
    message = run_check(LAB.check(name), mutants(LAB.name, name)[mutant], PUBLIC_SEED).message
    assert words in message


def test_without_the_shift_the_loss_is_clearly_another(mutants: Mutants) -> None:
    check = LAB.check("train_step")
    inputs = check.inputs(np.random.default_rng(PUBLIC_SEED))
    no_shift = mutants(LAB.name, "train_step")["no shift"]
    key = "the loss of a plain step"
    right, wrong = (check.drive(f, inputs)[key] for f in (reference.train_step, no_shift))
    assert wrong > 1.2 * right


@pytest.mark.parametrize("check", LAB.checks, ids=lambda check: check.name)
def test_every_property_holds_for_labkit(check: Any) -> None:
    """A property that the drive itself breaks would be expected to be broken."""
    expected = check.expected(check.inputs(np.random.default_rng(PUBLIC_SEED)))
    untrue = [k for k, v in expected.items() if v is False and not k.endswith("is wrapped")]
    assert untrue == []
    assert all(any(words in key for key in expected) for words in check.hints)


def test_the_drives_leave_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    for check in LAB.checks:
        check.expected(check.inputs(np.random.default_rng(PUBLIC_SEED)))
    assert torch.equal(before, torch.random.get_rng_state())
