"""Lab 01: other right ways pass, its counts and blocks are other libraries', faults are named."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from grader.checks.core import HIDDEN_SEEDS, PUBLIC_SEED, load_lab, run_check, verdicts
from grader.course import Course
from grader.labs.lab01_minillm import outside, recipe, reference
from labkit.model.blocks import Block, PostNormBlock
from labkit.model.config import ModelConfig, MoeConfig
from labkit.model.layers import rope_table
from labkit.model.minillm import MiniLLM

LAB = load_lab("lab01_minillm")
SEEDS = (PUBLIC_SEED, *HIDDEN_SEEDS, *range(40))
Mutants = Callable[[str, str], dict[str, Any]]


def normed_by_torch(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return functional.rms_norm(x.double(), weight.shape, weight.double(), eps).to(x.dtype)


def turned_as_complex_numbers(
    x: Tensor, positions: Tensor, theta: float, rotary_width: int | None = None
) -> Tensor:
    W = x.shape[-1] if rotary_width is None else rotary_width
    frequencies = torch.tensor([theta ** (-2 * i / W) for i in range(W // 2)])
    angles = (positions[..., None] * frequencies)[:, None]
    pairs = torch.complex(x[..., : W // 2].float(), x[..., W // 2 : W].float())
    pairs = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((pairs.real.to(x.dtype), pairs.imag.to(x.dtype), x[..., W:]), dim=-1)


def attended_query_by_query(
    q: Tensor, k: Tensor, v: Tensor, window: int | None = None, sinks: int = 0
) -> Tensor:
    (B, H, T, K), (G, S) = q.shape, k.shape[1:3]
    y = torch.empty_like(q)
    for h in range(H):
        for t in range(T):
            own, g = S - T + t, h * G // H
            low = 0 if window is None else max(0, own + 1 - window)
            seen = [s for s in range(own + 1) if s >= low or s < sinks]
            scores = (k[:, g, seen] @ q[:, h, t, :, None])[..., 0] / math.sqrt(K)
            y[:, h, t] = (scores.softmax(-1)[:, None] @ v[:, g, seen])[:, 0]
    return y.reshape(B, H, T, K)


def block_by_einsum(
    x: Tensor,
    weights: Mapping[str, Tensor],
    head_width: int,
    norm: Callable[[Tensor, Tensor], Tensor],
    rotate: Callable[[Tensor], Tensor],
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    post_norm: bool = False,
) -> Tensor:
    def sublayer(number: int, y: Tensor) -> Tensor:
        if number == 1:
            gate, up = (y @ weights[f"mlp.{n}_proj.weight"].T for n in ("gate", "up"))
            return (gate * gate.sigmoid() * up) @ weights["mlp.down_proj.weight"].T
        q, k, v = (
            torch.einsum(
                "btd,hkd->bhtk",
                y,
                weights[f"self_attn.{n}_proj.weight"].unflatten(0, (-1, head_width)),
            )
            for n in "qkv"
        )
        o = weights["self_attn.o_proj.weight"].unflatten(1, (-1, head_width))
        return torch.einsum("bhtk,dhk->btd", attend(rotate(q), rotate(k), v), o)

    names = ["input", "post_attention", "post_feedforward"]
    for number, name in enumerate(names[1:] if post_norm else names[:2]):
        weight = weights[f"{name}_layernorm.weight"]
        if post_norm:
            x = norm(x + sublayer(number, x), weight)
        else:
            x = x + sublayer(number, norm(x, weight))
    return x


def dispatched_by_sorting(logits: Tensor, top_k: int, capacity: int) -> tuple[Tensor, ...]:
    """A softmax over the chosen logits only; places found by a running count."""
    N, E = logits.shape
    values, experts = logits.topk(top_k, dim=-1)
    weights = values.softmax(-1)
    asked = functional.one_hot(experts.T.reshape(-1), E)
    places = (asked.cumsum(0) * asked).sum(1) - 1
    slots, gates = torch.full((E * capacity,), -1), torch.zeros(E * capacity)
    kept = places < capacity
    where = (experts.T.reshape(-1) * capacity + places)[kept]
    slots[where] = torch.arange(N).repeat(top_k)[kept]
    gates = gates.index_put((where,), weights.T.reshape(-1)[kept])
    dropped = (asked.sum(0) - capacity).clamp(min=0)
    return slots.view(E, capacity), gates.view(E, capacity), dropped


def counted_by_torch(config: Any, context: int) -> tuple[int, int, float]:
    """Every parameter and product of labkit's model; attention looks at `context` tokens."""
    experts = None if config.moe is None else MoeConfig(**vars(config.moe))
    own = ModelConfig(**{**vars(config), "moe": experts})
    with torch.device("meta"):
        model = MiniLLM(replace(own, moe=None))
        ids = torch.zeros(1, context, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids)
    network, router = 6 * own.width * own.ffn_width, 2 * own.width
    more = 0
    if experts is not None:
        more = own.num_layers * ((experts.top_k - 1) * network + experts.num_experts * router)
    flop = counter.get_total_flops() / context + more
    return own.num_parameters, own.num_active_parameters, flop / 1e9


@pytest.mark.parametrize(
    ("name", "impl"),
    [
        ("rms_norm", normed_by_torch),
        ("rope", turned_as_complex_numbers),
        ("grouped_attention", attended_query_by_query),
        ("block", block_by_einsum),
        ("predict_size", counted_by_torch),
        ("dispatch", dispatched_by_sorting),
    ],
)
def test_other_right_ways_pass(name: str, impl: Callable[..., Any]) -> None:
    assert verdicts(LAB.check(name), impl, SEEDS).message == ""


@pytest.mark.parametrize("post_norm", [False, True])
@torch.no_grad()
def test_the_reference_block_is_labkits(
    tiny_config: ModelConfig, gen: torch.Generator, post_norm: bool
) -> None:
    layer = (PostNormBlock if post_norm else Block)(tiny_config, 0)
    for parameter in layer.parameters():
        parameter.normal_(0.3, 0.4, generator=gen)
    x, positions = torch.randn(2, 7, 24, generator=gen), torch.arange(7).expand(2, 7)
    expected = layer(x, rope_table(positions, 4, tiny_config.rope_theta))
    got = reference.block(
        x,
        layer.state_dict(),
        4,
        partial(reference.rms_norm, eps=tiny_config.norm_eps),
        partial(reference.rope, positions=positions, theta=tiny_config.rope_theta),
        reference.grouped_attention,
        post_norm,
    )
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


MISUSES: list[tuple[str, Any, str]] = [
    ("rms_norm", lambda *a: None, "expected a tensor, got an object of type NoneType"),
    ("predict_size", lambda *a: 3, "a tuple of 3: parameters, active parameters, GFLOP of a token"),
    ("dispatch", lambda logits, k, C: (logits,), "expected a tuple of 3: slots, gates, dropped"),
    (
        "block",
        lambda x, w, K, norm, rotate, attend, post_norm=False: attend(x, x, x),
        "block calls attend: expected q of shape (2, 6, 5, 4), got (2, 5, 14)",
    ),
]


@pytest.mark.parametrize(("name", "impl", "words"), MISUSES)
def test_what_cannot_be_used_is_named(name: str, impl: Any, words: str) -> None:
    assert words in run_check(LAB.check(name), impl, PUBLIC_SEED).message


FINDINGS: list[tuple[str, str, str]] = [
    ("rms_norm", "rounds before the weight as well", "come back once, at the very end"),
    ("rms_norm", "no eps", "nan or infinite"),
    ("rope", "angles in the dtype of x", "above 256 not every whole number exists"),
    ("rope", "pairs halves of the whole head", "what lies beyond it stays"),
    ("grouped_attention", "queries are the first T", "the last T of S tokens"),
    ("grouped_attention", "sinks before causality", "causality comes first"),
    ("block", "post-norm is pre-norm", "the norm comes after each sum"),
    ("predict_size", "works with all experts", "only its own"),
    ("dispatch", "token by token", "all first choices are placed before"),
    ("dispatch", "the router learns nothing", "no gradient reaches the logits through gates"),
]


@pytest.mark.parametrize(("name", "mutant", "words"), FINDINGS)
def test_the_message_names_the_finding(
    mutants: Mutants, name: str, mutant: str, words: str
) -> None:
    message = run_check(LAB.check(name), mutants(LAB.name, name)[mutant], PUBLIC_SEED).message
    assert words in message


def layer_functions(head_width: int, theta: int) -> list[dict[str, Any]]:
    """The layers of all faults, in their order."""
    cases = [{"fault": f, "head_width": head_width, "theta": theta} for f in range(5)]
    return list(outside.layers({"cases": cases})["cases"])


def test_only_the_healthy_layer_is_labkits(gen: torch.Generator) -> None:
    q, k, v = (torch.randn(h, 7, 10, generator=gen) for h in (6, 3, 3))
    positions = torch.arange(3, 10)
    turn = partial(reference.rope, positions=positions[None], theta=5_000.0)
    expected = reference.grouped_attention(turn(q[None]), turn(k[None]), v[None])[0]
    same = [
        torch.allclose(case["attend"](q, k, v, positions), expected, atol=1e-5)
        for case in layer_functions(10, 5_000)
    ]
    assert same == [True, True, False, False, False]
    unit = reference.rms_norm(q[0], torch.ones(10), 1e-5)
    norms = [torch.allclose(c["norm"](q[0]), unit, atol=1e-5) for c in layer_functions(10, 5_000)]
    assert norms == [True, False, True, True, True]


@pytest.mark.parametrize("head_width", [6, 10, 14])
@pytest.mark.parametrize("theta", [1_000, 100_000])
def test_every_fault_can_be_told(head_width: int, theta: int) -> None:
    check = LAB.check("diagnose")
    cases = [{"fault": f, "head_width": head_width, "theta": theta} for f in range(5)]
    assert check.hand_over
    found = check.drive(reference.diagnose, check.hand_over({"cases": cases}))
    assert found == check.expected({"cases": cases})


def test_a_layer_says_what_it_cannot_be_called_with() -> None:
    attend = layer_functions(6, 1_000)[0]["attend"]
    q, k = torch.ones(4, 2, 6), torch.ones(3, 2, 6)
    with pytest.raises(ValueError, match="G dividing H; got"):
        attend(q, k, k, torch.arange(2))
    with pytest.raises(ValueError, match="heads of width 4, not 6"):
        attend(q[..., :4], k, k, torch.arange(2))


def test_the_loss_by_place_is_the_mean_over_its_places(gen: torch.Generator) -> None:
    ids = torch.randint(0, 11, (3, 9), generator=gen)
    logits = torch.randn(3, 9, 11, generator=gen)
    got = recipe.loss_by_place(logits, ids, (1, 3, 9))
    for value, places in zip(got, (range(1, 3), range(3, 9)), strict=True):
        rows = [
            functional.cross_entropy(logits[:, t - 1], ids[:, t], reduction="none") for t in places
        ]
        assert value == pytest.approx(float(torch.stack(rows).mean()), rel=1e-5)


def test_the_envelope_is_the_recipes(real_course: Course) -> None:
    beside = real_course.source(LAB.name).with_name("envelope.json")
    envelope = json.loads(beside.read_text(encoding="utf-8"))
    runs, edges = np.array(envelope["runs"]), recipe.Recipe().edges
    assert tuple(envelope["edges"]) == edges
    assert runs.shape == (len(recipe.ENVELOPE_SEEDS), len(edges) - 1)
    assert (runs[:, -1] < runs[:, 0]).all()
