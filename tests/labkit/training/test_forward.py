"""The loss of a mixture of experts: its parts, their weights, and that it balances."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch

from labkit.data.batch import Example, TokenBatch, collate
from labkit.data.loader import DataLoader
from labkit.model import fused, minillm, moe
from labkit.model.config import ModelConfig, MoeConfig
from labkit.training.config import TrainConfig
from labkit.training.forward import causal_lm_loss, fused_lm_loss, routed_lm_loss
from labkit.training.loop import train
from labkit.tuning import lora


@pytest.fixture
def experts(tiny_config: ModelConfig, gen: torch.Generator) -> minillm.MiniLLM:
    model = minillm.MiniLLM(replace(tiny_config, moe=MoeConfig(num_experts=5, top_k=2)))
    minillm.initialise(model, gen)
    with torch.no_grad():
        for block in model.model.layers:
            block.mlp.router.weight.normal_(0, 0.5, generator=gen)
            block.mlp.router.weight[3] *= 3
    return model


def _examples(gen: torch.Generator) -> list[Example]:
    rows = [tuple(torch.randint(0, 97, (n,), generator=gen).tolist()) for n in (6, 3, 9, 7)]
    return [Example(row, row) for row in rows]


@pytest.fixture
def batch(gen: torch.Generator) -> TokenBatch:
    return collate(_examples(gen), 0)


def test_it_is_the_plain_loss_and_the_weighted_means(
    experts: minillm.MiniLLM, batch: TokenBatch
) -> None:
    with moe.recorded_routing(experts) as found:
        plain, tokens = causal_lm_loss(experts, batch)
    balance = torch.stack([moe.balance_loss(routing) for routing in found]).mean()
    z = torch.stack([moe.router_z_loss(routing) for routing in found]).mean()
    loss, counted = routed_lm_loss(experts, batch, balance_weight=0.3, z_weight=0.07)
    assert counted == tokens == 21
    torch.testing.assert_close(loss / tokens, plain / tokens + 0.3 * balance + 0.07 * z)


def test_training_with_it_balances_the_experts(
    experts: minillm.MiniLLM, gen: torch.Generator
) -> None:
    loader = DataLoader(examples=_examples(gen), batch_size=4, pad_id=0)
    batch = next(iter(loader))

    def imbalance() -> float:
        with torch.no_grad(), moe.recorded_routing(experts) as found:
            experts(batch.ids)
        return sum(float(moe.balance_loss(routing)) for routing in found) / len(found)

    start, left = copy.deepcopy(experts.state_dict()), {}
    for weight in (0.0, 1.0):
        experts.load_state_dict(start)
        loss = partial(routed_lm_loss, balance_weight=weight)
        list(train(experts, loader, TrainConfig(steps=25, lr=1e-2), loss=loss))
        left[weight] = imbalance() - 1
    assert left[0.0] > 0.1
    assert left[1.0] < left[0.0] / 3


def test_a_dense_model_has_nothing_to_balance(
    tiny_model: minillm.MiniLLM, batch: TokenBatch
) -> None:
    with pytest.raises(ValueError, match="no experts to balance"):
        routed_lm_loss(tiny_model, batch)


def test_the_fused_loss_is_the_plain_one(
    tiny_config: ModelConfig, batch: TokenBatch, gen: torch.Generator
) -> None:
    model = minillm.MiniLLM(tiny_config)
    minillm.initialise(model, gen)
    (loss, tokens), (expected, count) = (f(model, batch) for f in (fused_lm_loss, causal_lm_loss))
    assert tokens == count
    torch.testing.assert_close(loss, expected)


def test_the_fused_loss_refuses_a_head_that_is_more_than_a_matrix(
    tiny_config: ModelConfig, batch: TokenBatch
) -> None:
    model = minillm.MiniLLM(tiny_config)
    lora.apply(model, lora.LoraConfig(target_modules=("lm_head",)))
    with pytest.raises(ValueError, match="needs a MiniLLM with a plain head"):
        fused_lm_loss(model, batch)


def test_fused_layers_and_loss_train_under_autocast_as_plain_ones_do(
    tiny_config: ModelConfig, batch: TokenBatch, gen: torch.Generator
) -> None:
    plain = minillm.MiniLLM(tiny_config)
    minillm.initialise(plain, gen)
    model = fused.fuse(copy.deepcopy(plain))
    for each, loss in ((model, fused_lm_loss), (plain, causal_lm_loss)):
        with torch.autocast("cpu", torch.bfloat16):
            total, _ = loss(each, batch)
        total.backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        assert ours.grad.dtype == torch.float32
        largest = float(theirs.grad.abs().max())
        torch.testing.assert_close(ours.grad / largest, theirs.grad / largest, rtol=0, atol=5e-2)
