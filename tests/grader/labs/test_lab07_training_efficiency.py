"""Lab 07: other right ways pass, expected values are torch's, faults are what they are named."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from grader.checks.core import HIDDEN_SEEDS, PUBLIC_SEED, Arrays, load_lab, run_check, verdicts
from grader.course import Course
from grader.labs.lab07_training_efficiency import check, given, outside, recipe, reference
from labkit.model.flash import flash_attention_2
from labkit.training.efficiency import saved_activations
from labkit.tuning.lora import LoraConfig

LAB = load_lab("lab07_training_efficiency")
SEEDS = (PUBLIC_SEED, *HIDDEN_SEEDS, *range(12))
State = tuple[Tensor, Tensor, Tensor]
Mutants = Callable[[str, str], dict[str, Any]]


def inputs_of(name: str, seed: int) -> Arrays:
    return LAB.check(name).inputs(np.random.default_rng(seed))


def merged_by_logarithms(first: State, second: State) -> State:
    sums = torch.stack([x[0].double() + x[1].double().log() for x in (first, second)])
    top = torch.maximum(first[0], second[0])
    norm = (sums.logsumexp(0) - top.double()).exp().nan_to_num(0.0)
    weights = (torch.stack([first[0], second[0]]).double() - top.double()).exp().nan_to_num(0.0)
    total = weights[0, :, None] * first[2] + weights[1, :, None] * second[2]
    return top, norm.float(), total.float()


def tiles_from_the_last(
    q: Tensor, load: Callable[..., Any], length: int, block_q: int, block_k: int
) -> tuple[Tensor, Tensor]:
    """Keys from the diagonal backwards, so that early rows begin with tiles they do not see."""
    T, K = q.shape
    places = torch.arange(length - T, length)
    out, lse = torch.zeros_like(q), torch.zeros(T)
    for rows in torch.arange(T).split(block_q):
        state = (
            torch.full((len(rows),), -math.inf),
            torch.zeros(len(rows)),
            torch.zeros_like(q[rows]),
        )
        latest = int(places[rows[-1]])
        for first in range(latest // block_k * block_k, -1, -block_k):
            last = min(first + block_k, length)
            k, v = load(first, last)
            scores = (q[rows] @ k.T / K**0.5).double()
            scores[torch.arange(first, last) > places[rows, None]] = -math.inf
            state = reference.merge_states(state, check.tile_state(scores, v.double()))
        out[rows], lse[rows] = state[2] / state[1][:, None], state[0] + state[1].log()
    return out, lse


def gradients_row_by_row(
    q: Tensor, k: Tensor, v: Tensor, hidden: Tensor, out: Tensor, lse: Tensor, d_out: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.zeros_like(x, dtype=torch.float64) for x in (q, k, v))
    for t, s in (~hidden).nonzero().tolist():
        score = (q[t].double() @ k[s].double()).item() / math.sqrt(q.shape[1])
        p = math.exp(score - lse[t].item())
        ds = p * (d_out[t] @ v[s] - d_out[t] @ out[t]).item() / math.sqrt(q.shape[1])
        dq[t] += ds * k[s]
        dk[s] += ds * q[t]
        dv[s] += p * d_out[t]
    return dq.float(), dk.float(), dv.float()


def checkpoint_by_hooks(
    function: Callable[[Tensor], Tensor], x: Tensor, parameters: tuple[Tensor, ...]
) -> Tensor:
    """The first run's output, with gradients of a second run for which the state is forked."""
    state = torch.get_rng_state()
    with torch.no_grad():
        y = function(x)

    class Late(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *tensors: Tensor) -> Tensor:
            ctx.save_for_backward(*tensors)
            return y.clone()

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> Any:
            alone = ctx.saved_tensors[0].detach().requires_grad_()
            with torch.enable_grad(), torch.random.fork_rng(devices=[]):
                torch.set_rng_state(state)
                again = function(alone)
            leaves = (alone, *ctx.saved_tensors[1:])
            trained = [leaf for leaf in leaves if leaf.requires_grad]
            found = dict(
                zip(map(id, trained), torch.autograd.grad(again, trained, dy), strict=True)
            )
            return tuple(found.get(id(leaf)) for leaf in leaves)

    return Late.apply(x, *parameters)


def step_of_torchs_scaler(
    parameters: Sequence[Tensor], optimizer: Any, scale: float, finite_steps: int,
    clip_norm: float, growth_interval: int = 2000,
) -> tuple[bool, float, int]:  # fmt: skip
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=growth_interval)
    scaler.scale(torch.zeros(1))
    scaler._growth_tracker.fill_(finite_steps)
    before = [p.detach().clone() for p in parameters]
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(parameters, clip_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    same = all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))
    return same, scaler.get_scale(), scaler._get_growth_tracker()


def token_by_token(
    model: nn.Module, micro_batches: Sequence[tuple[Tensor, Tensor]],
    total: int | None = None, ranks: int = 1,
) -> tuple[float, int]:  # fmt: skip
    places = [
        [(b, t) for b, t in (labels != -100).nonzero().tolist() if t > 0]
        for _, labels in micro_batches
    ]
    tokens = sum(map(len, places))
    nats = 0.0
    for (ids, labels), counted in zip(micro_batches, places, strict=True):
        if counted:
            log_probs = model(ids).log_softmax(-1)
            loss = -torch.stack([log_probs[b, t - 1, labels[b, t]] for b, t in counted]).sum()
            loss.backward(gradient=torch.tensor(ranks / (total or tokens)))
            nats += loss.item()
    return nats, tokens


class RunAgain(torch.autograd.Function):
    """Each chunk's loss by torch, once without gradients and once more in the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(hidden, weight, targets)
        ctx.rows = rows
        pairs = zip(hidden.split(rows), targets.split(rows), strict=True)
        return sum((RunAgain.part(h, weight, y) for h, y in pairs), hidden.new_zeros(()))

    @staticmethod
    def part(h: Tensor, weight: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(h @ weight.T, y, ignore_index=-100, reduction="sum")

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> Any:
        wanted, found, d_weight = ctx.needs_input_grad[:2], [], None
        hidden, weight, targets = ctx.saved_tensors
        for h, y in zip(hidden.split(ctx.rows), targets.split(ctx.rows), strict=True):
            leaves = [
                x.detach().requires_grad_(w) for x, w in zip((h, weight), wanted, strict=True)
            ]
            with torch.enable_grad():
                loss = RunAgain.part(*leaves, y)
            grads = torch.autograd.grad(loss, [x for x in leaves if x.requires_grad], factor)
            found.append(grads[0])
            if wanted[1]:
                d_weight = grads[1] if d_weight is None else d_weight + grads[1]
        return torch.cat(found), d_weight, None, None


def loss_run_again(hidden: Tensor, weight: Tensor, targets: Tensor, chunk_rows: int) -> Tensor:
    return RunAgain.apply(hidden, weight, targets, chunk_rows)


@pytest.mark.parametrize(
    ("name", "impl"),
    [
        ("merge_states", merged_by_logarithms),
        ("tiled_attention", tiles_from_the_last),
        ("tile_gradients", gradients_row_by_row),
        ("checkpoint", checkpoint_by_hooks),
        ("scaled_step", step_of_torchs_scaler),
        ("accumulate", token_by_token),
        ("chunked_loss", loss_run_again),
    ],
)
def test_other_right_ways_pass(name: str, impl: Callable[..., Any]) -> None:
    assert verdicts(LAB.check(name), impl, SEEDS).message == ""


@pytest.mark.parametrize("seed", SEEDS)
def test_merged_states_are_a_softmax_over_all_keys(seed: int, gen: torch.Generator) -> None:
    scores = 50 * torch.randn(5, 17, generator=gen, dtype=torch.float64)
    values = torch.randn(17, 3, generator=gen, dtype=torch.float64)
    tiles = zip(scores.split((4, 1, 12), dim=1), values.split((4, 1, 12)), strict=True)
    first, second, third = (check.tile_state(*tile) for tile in tiles)
    merged = reference.merge_states(reference.merge_states(first, second), third)
    expected = (scores.softmax(1) @ values).float()
    torch.testing.assert_close(merged[2] / merged[1][:, None], expected, rtol=1e-4, atol=1e-5)
    lse = scores.logsumexp(1).float()
    torch.testing.assert_close(merged[0] + merged[1].log(), lse, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_expected_outputs_are_torchs(seed: int) -> None:
    expected = LAB.check("tiled_attention").expected(inputs_of("tiled_attention", seed))
    for case in inputs_of("tiled_attention", seed)["cases"]:
        q, k, v = (case[name].double() for name in "qkv")
        seen = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))
        out = functional.scaled_dot_product_attention(q[None], k[None], v[None], seen)[0]
        labkits = flash_attention_2(q[None, None], k[None, None], v[None, None])[0, 0]
        torch.testing.assert_close(labkits, out)
        found = expected[f"{case['kind']}: output"]
        torch.testing.assert_close(found, out.float(), rtol=1e-3, atol=1e-4)
        lse = (q @ k.T / q.shape[1] ** 0.5).masked_fill(~seen, -math.inf).logsumexp(1)
        found = expected[f"{case['kind']}: log-sum-exp"]
        torch.testing.assert_close(found, lse.float(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_expected_gradients_add_up_to_torchs(seed: int) -> None:
    inputs = inputs_of("tile_gradients", seed)
    qkv = [inputs[name].double().requires_grad_() for name in "qkv"]
    out = functional.scaled_dot_product_attention(
        *(x[None] for x in qkv), attn_mask=~inputs["hidden"]
    )[0]
    gradients = torch.autograd.grad(out, qkv, inputs["d_out"].double())
    expected = LAB.check("tile_gradients").expected(inputs)
    for name, gradient in zip(("dq", "dk", "dv"), gradients, strict=True):
        found = expected[f"all tiles together: {name}"]
        torch.testing.assert_close(found, gradient.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["tiled_attention", "chunked_loss"])
@pytest.mark.parametrize("seed", SEEDS)
def test_labkit_keeps_within_every_limit(name: str, seed: int) -> None:
    expected = LAB.check(name).expected(inputs_of(name, seed))
    limits = [value for value in expected.values() if type(value) is bool]
    assert limits
    assert all(limits)


@pytest.mark.parametrize("seed", SEEDS)
def test_some_tiles_are_hidden_whole_and_some_in_part(seed: int) -> None:
    inputs = inputs_of("tile_gradients", seed)
    height, width = inputs["rows"]
    tiles = [t for rows in inputs["hidden"].split(height) for t in rows.split(width, dim=1)]
    assert any(t.all() for t in tiles)
    assert any(t.any() and not t.all() for t in tiles)
    assert any(not t.any() for t in tiles)


@pytest.mark.parametrize("seed", SEEDS)
def test_accumulated_gradients_are_those_of_one_padded_batch(seed: int) -> None:
    inputs = inputs_of("accumulate", seed)
    width = max(ids.shape[1] for ids, _ in inputs["batches"])
    ids, labels = (
        torch.cat(
            [
                functional.pad(p[i], (0, width - p[i].shape[1]), value=fill)
                for p in inputs["batches"]
            ]
        )
        for i, fill in ((0, 0), (1, -100))
    )
    model = given.Bigram(inputs["embedding"], inputs["head"])
    logits = model(ids)[:, :-1].flatten(0, 1)
    functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100).backward()
    expected = LAB.check("accumulate").expected(inputs)
    for found, parameter in zip(expected["alone: gradients"], model.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_among_the_steps_some_are_limited_and_some_are_not(seed: int) -> None:
    inputs = inputs_of("scaled_step", seed)
    norms = [torch.cat([g.flatten() for g in step]).norm().item() for step in inputs["steps"]]
    finite = [norm for norm in norms if math.isfinite(norm)]
    assert len(finite) < len(norms)
    assert min(finite) < inputs["clip_norm"] < max(finite)


@pytest.mark.parametrize(
    ("name", "impl", "words"),
    [
        ("merge_states", lambda first, second: first[0], "(top, norm, total)"),
        (
            "tiled_attention",
            lambda q, load, length, *_: load(0, length),
            "1 to block_k=3 of the 11",
        ),
        ("tile_gradients", lambda q, k, v, *_: (q.T, k, v), "dq: expected a tensor of shape"),
        ("checkpoint", lambda function, x, _: function(x).detach(), "must carry a gradient"),
        ("scaled_step", lambda *_: (False, 2, 1), "expected a bool, a float and an int"),
        ("accumulate", lambda model, batches, **_: (1, 2.0), "expected a float and an int"),
        ("chunked_loss", lambda hidden, *_: hidden, "the loss: expected a tensor of shape ()"),
    ],
)
def test_a_result_of_the_wrong_form_is_answered_with_the_right_one(
    name: str, impl: Callable[..., Any], words: str
) -> None:
    assert words in run_check(LAB.check(name), impl, PUBLIC_SEED).message


def test_numbers_see_what_lives_and_what_has_gone() -> None:
    weight = torch.ones(6, 2)
    there = torch.ones(1000, 1)
    with given.Numbers(6, weight, there) as numbers:
        kept = torch.ones(3, 6)
        for _ in range(4):
            kept = kept + 1
        view = weight.view(6, 2)
        there[:1].clone()
    assert (numbers.most_alive, numbers.most_rows, numbers.as_weight) == (36, 3, False)
    with given.Numbers(6, weight) as numbers:
        torch.zeros_like(view)
    assert numbers.as_weight


def steps(clip: int, exponent: int) -> list[Callable[..., Tensor]]:
    """The steps of all faults, in their order."""
    cases = [{"fault": fault, "clip": clip, "exponent": exponent} for fault in range(5)]
    return [case["step"] for case in outside.steps({"cases": cases})["cases"]]


def test_only_the_healthy_step_is_sgd_on_the_mean_over_all_tokens(gen: torch.Generator) -> None:
    weights = 100 * torch.randn(7, generator=gen)  # so that float16's errors of a step are small
    gradients = torch.randn(3, 5, 7, generator=gen)
    gradients[..., 0] = 1e-7
    weights[0] = 0
    counted = torch.rand(3, 5, generator=gen) < 0.6
    mean = gradients[counted].mean(0)
    expected = weights - mean * min(1.0, 2 / mean.norm().item())
    found = [step(weights, gradients, counted) for step in steps(2, 10)]
    same = [
        torch.allclose(x[1:], expected[1:], rtol=1e-4)
        and math.isclose(x[0], expected[0], rel_tol=0.02)
        for x in found
    ]
    assert same == [True, False, False, False, False]


@pytest.mark.parametrize("clip", [1, 2, 3])
@pytest.mark.parametrize("exponent", range(6, 11))
def test_every_fault_can_be_told(clip: int, exponent: int) -> None:
    names = [reference.diagnose(step, clip, exponent) for step in steps(clip, exponent)]
    assert names == list(check.FAULTS)


def test_every_step_skips_what_overflows() -> None:
    weights = torch.ones(1)
    for step in steps(1, 6):
        found = step(weights, torch.full((1, 1, 1), 1e6), torch.ones(1, 1, dtype=torch.bool))
        assert torch.equal(found, weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": torch.zeros(1, 2)}, "weights: expected a float32 tensor of 1"),
        ({"gradients": torch.zeros(1, 2, 3).double()}, "gradients: expected a float32 tensor of 3"),
        ({"weights": torch.zeros(2)}, "must agree in D"),
        ({"counted": torch.ones(1, 2)}, "counted: expected a bool"),
        ({"counted": torch.zeros(1, 2, dtype=torch.bool)}, "one True at least"),
    ],
)
def test_a_step_says_what_it_cannot_take(change: dict[str, Tensor], message: str) -> None:
    right = {
        "weights": torch.zeros(3),
        "gradients": torch.zeros(1, 2, 3),
        "counted": torch.ones(1, 2, dtype=torch.bool),
    }
    with pytest.raises(ValueError, match=message):
        steps(1, 6)[0](*(right | change).values())


def test_the_plain_steps_activations_are_those_foretold() -> None:
    loaded = recipe.adapted(recipe.MINI)
    pair = recipe.texts(recipe.MINI, loaded.tokenizer, 64, seed=0)
    config = LoraConfig(rank=recipe.MINI.rank, alpha=1, target_modules="all-linear")
    B, T = pair[0].shape
    step = saved_activations.Step(batch=B, length=T, lora=config)
    parts = saved_activations.kept_bytes(loaded.config, step)
    at_the_loss = sum(parts.values()) + 2 * parts["log-probabilities"]
    found = recipe.peak_mib(loaded.model, recipe.plain_loss, *pair) * 2**20
    assert 0.9 < found / at_the_loss < 1.2


def test_the_envelope_is_the_recipes_and_lies_between_inputs_and_plain(
    real_course: Course,
) -> None:
    beside = real_course.source(LAB.name).with_name("envelope.json")
    envelope = json.loads(beside.read_text(encoding="utf-8"))
    assert tuple(envelope["limits"]) == recipe.Recipe().limits == recipe.MINI.limits
    for model in ("mini", "smollm2-135m"):
        runs = np.array(envelope["runs"][model])
        assert runs.shape == (len(recipe.ENVELOPE_SEEDS), len(recipe.MINI.limits))
        assert (np.diff(runs, axis=1) >= 0).all()
        assert (np.diff(runs.mean(0)) > 0).all()
    loaded = recipe.adapted(recipe.MINI)
    for seed, row in zip(recipe.ENVELOPE_SEEDS, envelope["runs"]["mini"], strict=True):
        pair = recipe.texts(recipe.MINI, loaded.tokenizer, recipe.MINI.limits[-1], seed)
        inputs = 4 * loaded.config.num_layers * pair[0].numel() * loaded.config.width / 2**20
        assert inputs < row[-1] < recipe.peak_mib(loaded.model, recipe.plain_loss, *pair) / 2
