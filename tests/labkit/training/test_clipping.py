"""Clipping against torch's."""

import copy

import pytest
import torch
from torch import nn

from labkit.training.clipping import clip_gradients, gradient_norm


@pytest.fixture
def module(gen):
    module = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=gen)
    module[1].bias.grad = None
    return module


@pytest.mark.parametrize("max_norm", [0.01, 1.0, 1e3])
def test_equals_torch(module, max_norm):
    theirs = copy.deepcopy(module)
    for ours, copied in zip(module.parameters(), theirs.parameters(), strict=True):
        copied.grad = None if ours.grad is None else ours.grad.clone()
    expected = nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
    norm = clip_gradients(module.parameters(), max_norm)
    torch.testing.assert_close(norm, expected, rtol=1e-6, atol=0)
    for ours, copied in zip(module.parameters(), theirs.parameters(), strict=True):
        if copied.grad is not None:
            torch.testing.assert_close(ours.grad, copied.grad, rtol=1e-6, atol=0)


def test_one_factor_for_all_keeps_the_direction(module):
    before = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    norm = clip_gradients(module.parameters(), 0.5)
    after = [p.grad for p in module.parameters() if p.grad is not None]
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old * (0.5 / norm), rtol=1e-5, atol=0)
    assert gradient_norm(module.parameters()).item() == pytest.approx(0.5, rel=1e-5)


def test_no_gradients_at_all():
    assert clip_gradients(nn.Linear(2, 3).parameters(), 1.0).item() == 0.0
