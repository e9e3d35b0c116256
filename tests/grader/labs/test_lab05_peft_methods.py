"""Lab 05: other right ways pass, planted faults are what their names say, the envelope fits."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from grader.checks.core import HIDDEN_SEEDS, PUBLIC_SEED, load_lab, run_check, verdicts
from grader.course import Course
from grader.labs.lab05_peft_methods import check, outside, recipe, reference
from labkit.data.batch import TokenBatch
from labkit.model.minillm import MiniLLM
from labkit.training.forward import causal_lm_loss
from labkit.tuning import prompt_tuning

LAB = load_lab("lab05_peft_methods")
SEEDS = (PUBLIC_SEED, *HIDDEN_SEEDS, *range(12))


class AdapterOfParameters(nn.Module):
    """Holders instead of linear layers, einsum instead of products, float64 on the way."""

    def __init__(
        self, base: nn.Module, inputs: int, outputs: int, width: int, form: str, scaling: float,
        generator: torch.Generator,
    ) -> None:  # fmt: skip
        super().__init__()
        self.base, self.after, self.scaling = base.requires_grad_(False), form[0] == "s", scaling
        self.down, self.up = nn.Module(), nn.Module()
        drawn = torch.randn(width, outputs if self.after else inputs, generator=generator)
        self.down.weight, self.down.bias = nn.Parameter(drawn), nn.Parameter(torch.zeros(width))
        self.up.weight = nn.Parameter(torch.zeros(outputs, width))
        self.up.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        z = (y if self.after else x).double()
        hidden = torch.einsum("...i,ri->...r", z, self.down.weight.double()) + self.down.bias
        up = torch.einsum("...r,or->...o", hidden.clamp(min=0), self.up.weight.double())
        return (y.double() + self.scaling * (up + self.up.bias)).to(y.dtype)


def prompted_row_by_row(
    decoder: Any, rows: Tensor, embeddings: Tensor, mask: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    (B, T), P = mask.shape, len(rows)
    real = mask.long()
    inner = torch.stack([torch.cat([rows.to(e.dtype), e]) for e in embeddings])
    seen = torch.cat([torch.ones(B, P, dtype=torch.bool), mask], dim=1)
    places = torch.cat([torch.arange(P).repeat(B, 1), (P + real.cumsum(1) - 1) * real], dim=1)
    logits = decoder(inner, seen, places)
    nats = [
        -logits[b, P + t - 1].float().log_softmax(0)[labels[b, t]]
        for b in range(B)
        for t in range(T)
        if labels[b, t] != -100
    ]
    return logits.split([P, T], dim=1)[1], torch.stack(nats).mean()


def prefix_in_float64(
    q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor
) -> tuple[Tensor, Tensor]:
    """Numerators and denominators under one maximum."""
    q, k, v, prefix_k, prefix_v = (x.double() for x in (q, k, v, prefix_k, prefix_v))
    T, K = q.shape[-2:]
    text = torch.einsum("bhtk,bhsk->bhts", q, k) / K**0.5
    text = torch.where(torch.ones(T, T).tril() > 0, text, -math.inf)
    prefix = torch.einsum("bhtk,hpk->bhtp", q, prefix_k) / K**0.5
    top = torch.maximum(text.amax(-1, True), prefix.amax(-1, True)).detach()
    w, wp = (text - top).exp(), (prefix - top).exp()
    total = w.sum(-1, True) + wp.sum(-1, True)
    return ((w @ v + wp @ prefix_v) / total).float(), (wp.sum(-1, True) / total)[..., 0].float()


def prefix_with_scaled_queries(
    q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor
) -> tuple[Tensor, Tensor]:
    q = q / math.sqrt(q.shape[-1])
    text = q @ k.mT + torch.full((q.shape[-2],) * 2, -math.inf).triu(1)
    prefix = q @ prefix_k.mT
    logs = torch.stack([prefix.logsumexp(-1), text.logsumexp(-1)]).softmax(0)
    parts = prefix.softmax(-1) @ prefix_v, functional.softmax(text, -1) @ v
    return torch.lerp(parts[1], parts[0], logs[0, ..., None]), logs[0]


class Ia3ByMatrices(nn.Module):
    def __init__(self, base: nn.Linear, feedforward: bool) -> None:
        super().__init__()
        self.base, self.inside = base.requires_grad_(False), feedforward
        self.scale = nn.Parameter(base.weight.new_ones(base.weight.shape[feedforward]).float())

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self._exact()
        y = functional.linear(x.float(), weight, bias)
        return y.to(torch.promote_types(x.dtype, self.base.weight.dtype))

    def merged(self) -> tuple[Tensor, Tensor | None]:
        weight, bias = self._exact()
        dtype = self.base.weight.dtype
        return weight.to(dtype), None if bias is None else bias.to(dtype)

    def _exact(self) -> tuple[Tensor, Tensor | None]:
        weight, bias, scale = self.base.weight.float(), self.base.bias, self.scale.float()
        if self.inside:
            return weight @ scale.diag(), None if bias is None else bias.float()
        return scale.diag() @ weight, None if bias is None else bias.float() * scale


def dora_by_autograd(
    weight: Tensor, A: Tensor, B: Tensor, m: Tensor, scaling: float, grad: Tensor,
    norm_is_constant: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    A, B, m = (x.double().requires_grad_() for x in (A, B, m))
    V = weight.double() + scaling * B @ A
    length = V.square().sum(1).sqrt()
    merged = (m / (length.detach() if norm_is_constant else length))[:, None] * V
    found = torch.autograd.grad((merged * grad).sum(), (m, A, B))
    return merged.detach().float(), *(g.float() for g in found)  # type: ignore[return-value]


def reallocated_entry_by_entry(
    factors: Any, gradients: Any, memory: Any, beta_1: float, beta_2: float, budget: int
) -> tuple[Any, Any]:
    updated, ranked = [], []
    for layer, (factor, grads, old) in enumerate(zip(factors, gradients, memory, strict=True)):
        pairs = []
        for w, g, (smooth, spread) in zip(factor, grads, old, strict=True):
            now = w.mul(g).abs().double()
            mean = torch.lerp(now, smooth.double(), beta_1)
            pairs.append((mean, torch.lerp((now - mean).abs(), spread.double(), beta_2)))
        (a, ua), (e, ue), (b, ub) = pairs
        for i in range(len(e)):
            score = e[i] * ue[i] + (a[i] @ ua[i]) / len(a[i]) + (b[:, i] @ ub[:, i]) / len(b)
            ranked.append((float(score), layer, i))
        updated.append(tuple((x.float(), y.float()) for x, y in pairs))
    kept = [torch.zeros(len(factor[1]), dtype=torch.bool) for factor in factors]
    for _, layer, i in sorted(ranked, reverse=True)[:budget]:
        kept[layer][i] = True
    return updated, kept


@pytest.mark.parametrize(
    ("name", "impl"),
    [
        ("adapter", AdapterOfParameters),
        ("prompted_loss", prompted_row_by_row),
        ("prefix_attention", prefix_in_float64),
        ("prefix_attention", prefix_with_scaled_queries),
        ("ia3_linear", Ia3ByMatrices),
        ("dora_gradients", dora_by_autograd),
        ("reallocate", reallocated_entry_by_entry),
        ("diagnose", reference.diagnose),
    ],
)
def test_other_right_ways_pass(name: str, impl: Callable[..., Any]) -> None:
    assert verdicts(LAB.check(name), impl, SEEDS).message == ""


def test_a_bare_tensor_for_two_is_answered_with_their_names() -> None:
    verdict = run_check(LAB.check("prefix_attention"), lambda q, *_: q, PUBLIC_SEED)
    assert "(output, share)" in verdict.message


def test_a_memory_of_another_form_is_answered_with_the_form() -> None:
    verdict = run_check(LAB.check("reallocate"), lambda *_: ([], []), PUBLIC_SEED)
    assert "three pairs" in verdict.message


def test_the_loss_under_a_prompt_is_labkits_but_for_first_tokens() -> None:
    """labkit's model cuts the last virtual token's logits off, so a first token is never learnt."""
    config = recipe.loaded("mini").config
    gen = torch.Generator().manual_seed(0)
    model = MiniLLM(replace(config, num_layers=1))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=gen)
    ids = torch.randint(config.vocab_size, (2, 6), generator=gen)
    labels = ids.masked_fill(torch.tensor([1, 0, 0, 1, 0, 0]) > 0, -100)
    tuned = prompt_tuning.apply(
        copy.deepcopy(model), prompt_tuning.PromptTuningConfig(num_virtual_tokens=3)
    )

    def decoder(embeddings: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        table = model.model.embed_tokens
        handle = table.register_forward_hook(lambda *_: embeddings)
        try:
            return model(torch.zeros(positions.shape, dtype=torch.long), positions=positions)
        finally:
            handle.remove()

    rows = tuned.soft_prompt.prompt_embeddings
    embeddings = model.model.embed_tokens(ids)
    mask = torch.ones_like(ids) > 0
    logits, loss = reference.prompted_loss(decoder, rows, embeddings, mask, labels)
    total, count = causal_lm_loss(tuned, TokenBatch(ids=ids, labels=labels))
    torch.testing.assert_close(logits, tuned(ids))
    torch.testing.assert_close(loss, total / count)


def layers(width: int, seed: int) -> list[dict[str, Any]]:
    """The layers of all faults, in their order."""
    cases = [{"fault": fault, "width": width, "seed": seed} for fault in range(5)]
    return outside.layers({"cases": cases})["cases"]


@pytest.mark.parametrize("seed", range(40))
def test_every_fault_can_be_told(seed: int) -> None:
    width = 6 + seed % 4
    names = [reference.diagnose(c["adapted"], c["exported"], width) for c in layers(width, seed)]
    assert names == list(check.FAULTS)


def test_the_healthy_layer_is_the_formula(gen: torch.Generator) -> None:
    weights = outside._weights(7, 3)
    x = torch.randn(5, 7, generator=gen)
    frozen = x @ weights.weight.T + weights.bias
    gate = 1 / (1 + (-(x @ weights.gate)).exp())
    added = gate[:, None] * ((x @ weights.down.T).clamp(min=0) @ weights.up.T)
    healthy = layers(7, 3)[0]
    whole = frozen + (1 - math.exp(-10)) * (added + weights.up_bias)
    torch.testing.assert_close(healthy["adapted"](x, 1000), whole)
    torch.testing.assert_close(healthy["exported"](x, 1000), whole)
    torch.testing.assert_close(healthy["adapted"](x, 0), frozen)


def test_each_fault_shows_where_its_name_says_and_nowhere_else(gen: torch.Generator) -> None:
    x = torch.randn(6, 8, generator=gen)
    alone, twice, still, apart = [], [], [], []
    for name, case in zip(check.FAULTS, layers(8, 5), strict=True):
        adapted, exported = case["adapted"], case["exported"]
        now, same = adapted(x, 900), adapted(x[:1].repeat(6, 1), 900)
        moved = now - adapted(x, 0)
        alone += [name] * (not torch.allclose(now[:1], adapted(x[:1], 900), atol=1e-4))
        twice += [name] * (not torch.allclose(same[0], same[1], atol=1e-4))
        still += [name] * torch.allclose(moved[0], moved[1], atol=1e-4)
        apart += [name] * (not torch.allclose(now, exported(x, 900), atol=1e-4))
    assert (alone, twice, still) == (["leaks_future"], ["dropout_on"], ["dead"])
    assert apart == ["dropout_on", "bias_lost"]


@pytest.mark.parametrize(
    ("x", "steps", "message"),
    [
        (torch.zeros(2, 6), 5, r"expected \(T, 7\)"),
        (torch.zeros(65, 7), 5, "from 1 to 64"),
        (torch.zeros(7), 5, "float32 tensor"),
        (torch.zeros(2, 7, dtype=torch.float64), 5, "float32 tensor"),
        (torch.full((2, 7), math.nan), 5, "finite"),
        (torch.zeros(2, 7), 1001, "steps must be"),
        (torch.zeros(2, 7), 5.0, "steps must be"),
    ],
)
def test_a_layer_says_what_it_cannot_take(x: Tensor, steps: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layers(7, 0)[0]["adapted"](x, steps)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_axis_of_a_prefix_question_is_as_long_as_both_together(seed: int) -> None:
    inputs = LAB.check("prefix_attention").inputs(np.random.default_rng(seed))
    (B, H, T, K), P = inputs["q"].shape, inputs["prefix_k"].shape[1]
    lengths = {B, H, T, K, P, B * H, B * T, B * P, H * T, H * P, T * K, P * K, T * T, P * T}
    assert P + T not in lengths


@pytest.mark.parametrize("seed", SEEDS)
def test_a_budget_is_shared_unequally(seed: int) -> None:
    check_ = LAB.check("reallocate")
    expected = check_.expected(check_.inputs(np.random.default_rng(seed)))
    kept = [
        [int(k.sum()) for k in expected[f"step {step}: what each layer keeps"]] for step in (1, 2)
    ]
    assert any(len(set(counts)) > 1 for counts in kept)


def test_the_envelope_is_the_recipes_and_falls(real_course: Course) -> None:
    beside = real_course.source(LAB.name).with_name("envelope.json")
    envelope = json.loads(beside.read_text(encoding="utf-8"))
    assert envelope["steps"] == recipe.Recipe().at()
    assert set(envelope["runs"]) == set(recipe.MODELS)
    for methods in envelope["runs"].values():
        for runs in map(np.array, methods.values()):
            assert runs.shape == (len(recipe.ENVELOPE_SEEDS), len(envelope["steps"]))
            assert len(set(runs[:, 0])) == 1
            assert (runs[:, -1] < runs[:, 0]).all()
    both = envelope["runs"]["smollm2-135m"]
    assert both["adapter"][0][0] == both["ia3"][0][0]
