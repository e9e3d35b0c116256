"""Experts against transformers' Mixtral (no capacity) and a token-by-token float64 (capacity)."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from labkit.model import minillm, moe
from labkit.model.config import ModelConfig, MoeConfig
from labkit.model.layers import SwiGLU


def _layer(config: ModelConfig, settings: MoeConfig, gen: torch.Generator) -> moe.MixtureOfExperts:
    layer = moe.MixtureOfExperts(replace(config, moe=settings))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.4, generator=gen)
    return layer


def _by_hand(layer: moe.MixtureOfExperts, x: Tensor, capacity: int) -> tuple[Tensor, list[int]]:
    """Every token in turn in float64; the output and what each expert dropped."""
    tokens = x.flatten(0, -2).double()
    p = (tokens @ layer.router.weight.double().T).softmax(-1)
    k, E = layer.router.config.top_k, len(layer.experts)
    experts = copy.deepcopy(layer.experts).double()
    chosen = [sorted(range(E), key=lambda e, row=row: -row[e])[:k] for row in p.tolist()]
    y, taken, dropped = torch.zeros_like(tokens), [0] * E, [0] * E
    for choice in range(k):
        for n, token in enumerate(tokens):
            e = chosen[n][choice]
            if taken[e] == capacity:
                dropped[e] += 1
                continue
            taken[e] += 1
            y[n] += p[n, e] / p[n, chosen[n]].sum() * experts[e](token)
    return y.view(x.shape), dropped


@pytest.mark.parametrize("top_k", [1, 2, 5])
@torch.no_grad()
def test_without_capacity_it_is_mixtrals(
    tiny_config: ModelConfig, gen: torch.Generator, top_k: int
) -> None:
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    layer = _layer(tiny_config, MoeConfig(num_experts=5, top_k=top_k), gen)
    peer = MixtralSparseMoeBlock(
        MixtralConfig(
            hidden_size=24, intermediate_size=40, num_local_experts=5, num_experts_per_tok=top_k
        )
    )
    peer.gate.weight.copy_(layer.router.weight)
    for e, expert in enumerate(layer.experts):
        both = torch.cat((expert.gate_proj.weight, expert.up_proj.weight))
        peer.experts.gate_up_proj[e] = both
        peer.experts.down_proj[e] = expert.down_proj.weight
    x = torch.randn(3, 7, 24, generator=gen)
    torch.testing.assert_close(layer(x), peer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("top_k", "factor"), [(1, 0.6), (2, 0.5), (2, 1.0), (3, 0.9), (2, 9.0)])
@torch.no_grad()
def test_a_full_expert_drops_later_choices_and_tokens(
    tiny_config: ModelConfig, gen: torch.Generator, top_k: int, factor: float
) -> None:
    settings = MoeConfig(num_experts=5, top_k=top_k, capacity_factor=factor)
    layer = _layer(tiny_config, settings, gen)
    x = torch.randn(3, 7, 24, generator=gen)
    expected, dropped = _by_hand(layer, x, math.ceil(factor * 21 * top_k / 5))
    with moe.recorded_routing(layer) as found:
        got = layer(x)
    [routing] = found
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)
    assert routing.dropped == sum(dropped)
    assert (sum(dropped) > 0) == (factor < 2)
    assert int(routing.loads.sum()) == 21 * top_k
    lost = torch.bincount(routing.experts[~routing.kept], minlength=5)
    assert lost.tolist() == dropped
    assert int((routing.loads - lost).max()) <= math.ceil(factor * 21 * top_k / 5)
    torch.testing.assert_close(routing.weights.sum(-1), torch.ones(21))


@torch.no_grad()
def test_nothing_is_dropped_outside_of_training(
    tiny_config: ModelConfig, gen: torch.Generator
) -> None:
    settings = MoeConfig(num_experts=5, top_k=2, capacity_factor=0.3)
    layer = _layer(tiny_config, settings, gen)
    x = torch.randn(2, 7, 24, generator=gen)
    assert not torch.allclose(layer(x), layer.eval()(x))
    alone = torch.stack([layer(token) for token in x.flatten(0, 1)])
    torch.testing.assert_close(layer(x).flatten(0, 1), alone, rtol=1e-4, atol=1e-5)


def test_a_token_without_room_gets_nothing(tiny_config: ModelConfig, gen: torch.Generator) -> None:
    settings = MoeConfig(num_experts=3, top_k=1, capacity_factor=1.0)
    layer = _layer(tiny_config, settings, gen)
    x = torch.randn(1, 24, generator=gen).expand(6, 24)  # all to one expert, which takes two
    y = layer(x)
    assert y[:2].abs().min() > 0
    assert torch.equal(y[2:], torch.zeros(4, 24))


def test_capacity_counts_each_expert_by_itself() -> None:
    experts = torch.tensor([[0, 1], [0, 2], [1, 0], [0, 1]])
    # First choices 0, 0, 1, 0 fill expert 0 with tokens 0 and 1; then second ones 1, 2, 0, 1.
    kept = moe.within_capacity(experts, 2)
    assert kept.tolist() == [[True, True], [True, True], [True, False], [False, False]]
    assert moe.within_capacity(experts, 4).all()


@pytest.mark.parametrize("top_k", [1, 2])
def test_balance_loss_is_transformers(gen: torch.Generator, top_k: int) -> None:
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    router = moe.Router(24, MoeConfig(num_experts=5, top_k=top_k))
    routing = router(2 * torch.randn(21, 24, generator=gen))
    theirs = load_balancing_loss_func((routing.logits,), 5, top_k)
    torch.testing.assert_close(moe.balance_loss(routing) * top_k, theirs)
    (gradient,) = torch.autograd.grad(moe.balance_loss(routing), router.weight)
    assert gradient.abs().sum() > 0


def _routing(logits: Tensor) -> moe.Routing:
    experts = logits.topk(1, dim=-1).indices
    return moe.Routing(
        logits=logits, experts=experts, weights=torch.ones(experts.shape), kept=experts >= 0
    )


def test_balance_loss_is_one_at_balance_and_the_number_of_experts_at_collapse() -> None:
    uniform = 1e-4 * torch.eye(7).repeat(3, 1)
    assert moe.balance_loss(_routing(uniform)).item() == pytest.approx(1, rel=1e-3)
    collapsed = torch.zeros(21, 7)
    collapsed[:, 4] = 50
    assert moe.balance_loss(_routing(collapsed)).item() == pytest.approx(7)


def test_z_loss_is_the_mean_square_of_the_log_partition() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, -1.0, 0.5]])
    by_hand = sum(math.log(sum(math.exp(z) for z in row)) ** 2 for row in logits.tolist()) / 2
    assert moe.router_z_loss(_routing(logits)).item() == pytest.approx(by_hand)


def test_gradients_equal_float64s(tiny_config: ModelConfig, gen: torch.Generator) -> None:
    layer = _layer(tiny_config, MoeConfig(num_experts=5, top_k=2, capacity_factor=0.7), gen)
    x = torch.randn(3, 7, 24, generator=gen)
    way = torch.randn(3, 7, 24, generator=gen)
    (layer(x) * way).sum().backward()
    y, _ = _by_hand(layer, x, math.ceil(0.7 * 21 * 2 / 5))
    got = layer.router.weight.grad
    (expected,) = torch.autograd.grad((y * way).sum(), layer.router.weight)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def test_a_model_records_each_layer_and_only_within_the_context(
    tiny_config: ModelConfig, gen: torch.Generator
) -> None:
    model = minillm.MiniLLM(replace(tiny_config, moe=MoeConfig(num_experts=5)))
    minillm.initialise(model, gen)
    ids = torch.randint(0, 97, (2, 9), generator=gen)
    with moe.recorded_routing(model) as found:
        model(ids)
    model(ids)
    assert [int(routing.loads.sum()) for routing in found] == [36, 36, 36]
    copy.deepcopy(model)  # a graph kept on the model would not copy


def test_a_dense_configuration_has_no_experts(tiny_config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="has no moe"):
        moe.MixtureOfExperts(tiny_config)
    assert isinstance(minillm.MiniLLM(tiny_config).model.layers[0].mlp, SwiGLU)
