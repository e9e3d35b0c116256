"""ZeRO against one process's AdamW, its memory and traffic against the paper's formulas."""

from functools import partial

import pytest
import torch
from torch import nn

from labkit.training.parallel.collectives import Group
from labkit.training.parallel.zero import Zero, zero_memory, zero_traffic
from tests.labkit.training.parallel import tiny

ADAMW = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)


def trained_in_shards(stage: int, steps: int, dtype: torch.dtype = torch.float32):
    group = Group.world()
    model = tiny.tiny_model().to(dtype)
    zero = Zero(model, list(model.model.layers), group, ADAMW, stage=stage)
    sent, memory = [], None
    for step in range(steps):
        group.traffic.reset()
        tiny.mean_loss(model, tiny.batch(step).chunk(group.size)[group.index]).backward()
        if step == steps - 1:
            memory = zero.memory()
        zero.step()
        sent.append(group.traffic.sent_bytes)
    with torch.no_grad():
        logits = model(tiny.batch(99))
    zero.gather()
    return tiny.values(model), logits, memory, sent


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("n", [2, 3])
def test_parameters_equal_one_process_and_bytes_the_formulas(on_ranks, n: int, stage: int) -> None:
    model = tiny.tiny_model()
    tiny.trained(model, ADAMW, steps=4)
    expected, numel = tiny.values(model), sum(p.numel() for p in model.parameters())
    logits = model(tiny.batch(99)).detach()
    for ours, ours_logits, memory, sent in on_ranks(n, trained_in_shards, stage, 4):
        for name, value in expected.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(ours_logits, logits, rtol=1e-4, atol=2e-4)
        assert memory == zero_memory(numel, n, stage, item_bytes=4)
        assert sent == [zero_traffic(4 * numel, n, stage)] * 4


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_memory_of_a_bfloat16_model_is_the_papers(on_ranks, stage: int) -> None:
    numel = sum(p.numel() for p in tiny.tiny_model().parameters())
    for *_, memory, sent in on_ranks(2, trained_in_shards, stage, 2, torch.bfloat16):
        assert memory == zero_memory(numel, 2, stage)
        assert sent == [zero_traffic(2 * numel, 2, stage)] * 2


class Odd(nn.Sequential):
    """13 and 9 parameters: no number of ranks here divides them."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 3), nn.Linear(3, 1))
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters()):
                parameter.copy_(
                    torch.linspace(-1, 1.5 + index, parameter.numel()).view_as(parameter)
                )


def padded(stage: int):
    group = Group.world()
    model = Odd()
    zero = Zero(model, [model[0]], group, ADAMW, stage=stage)
    for step in range(3):
        for half in range(2):  # accumulated
            x = torch.arange(18.0).view(6, 3).sin() + step + half
            (model(x.chunk(group.size)[group.index]).pow(2).mean() / 2).backward()
        zero.step()
    zero.gather()
    return tiny.values(model)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_ragged_units_are_padded_and_accumulate(on_ranks, stage: int) -> None:
    model = Odd()
    optimizer = ADAMW(model.parameters())
    for step in range(3):
        optimizer.zero_grad()
        for half in range(2):
            x = torch.arange(18.0).view(6, 3).sin() + step + half
            (model(x).pow(2).mean() / 2).backward()
        optimizer.step()
    for ours in on_ranks(2, padded, stage):
        for name, value in tiny.values(model).items():
            torch.testing.assert_close(ours[name], value)


def test_the_papers_table() -> None:
    """7.5 B parameters on 64 ranks: 120, 31.4, 16.6 and 1.9 GB (figure 1)."""
    totals = [zero_memory(7_500_000_000, 64, stage).total / 1e9 for stage in range(4)]
    assert [round(total, 1) for total in totals] == [120.0, 31.4, 16.6, 1.9]


def missed() -> str:
    model = Odd()
    zero = Zero(model, [model[0]], Group.world(), ADAMW, stage=2)
    model[1](torch.ones(2, 3)).sum().backward()
    with pytest.raises(ValueError, match="backward missed 2 of a unit's 2 parameters") as caught:
        zero.step()
    return str(caught.value)


def test_a_missed_unit_is_said(on_ranks) -> None:
    assert all("must use them all" in text for text in on_ranks(2, missed))


def test_refusals() -> None:
    alone = Group(ranks=(0,), rank=0)
    with pytest.raises(ValueError, match="stage=4"):
        zero_memory(10, 2, 4)
    with pytest.raises(ValueError, match="stage=0"):
        Zero(Odd(), [], alone, ADAMW, stage=0)
    with pytest.raises(ValueError, match="no parameter requires a gradient"):
        Zero(Odd().requires_grad_(False), [], alone, ADAMW, stage=1)


def clipped(stage: int):
    group = Group.world()
    model = Odd()
    model[0].bias.requires_grad_(False)
    zero = Zero(model, [model[0]], group, ADAMW, stage=stage)
    norms = []
    for step in range(3):
        x = torch.arange(18.0).view(6, 3).sin() + step
        (10 * model(x.chunk(group.size)[group.index]).pow(2).mean()).backward()
        norms.append(zero.gradient_norm().item())
        zero.scale_gradients(min(1.0, 0.3 / norms[-1]))
        zero.step()
    zero.gather()
    return tiny.values(model), norms


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_gradients_are_clipped_by_the_norm_of_all_and_frozen_ones_stay(on_ranks, stage) -> None:
    model = Odd()
    model[0].bias.requires_grad_(False)
    optimizer = ADAMW([p for p in model.parameters() if p.requires_grad])
    norms = []
    for step in range(3):
        optimizer.zero_grad()
        (10 * model(torch.arange(18.0).view(6, 3).sin() + step).pow(2).mean()).backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.3).item())
        optimizer.step()
    assert min(norms) > 0.3
    for ours, ours_norms in on_ranks(2, clipped, stage):
        assert ours_norms == pytest.approx(norms, rel=1e-5)
        assert torch.equal(ours["0.bias"], Odd()[0].bias)
        for name, value in tiny.values(model).items():
            torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-6)
