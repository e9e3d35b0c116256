"""The scale's path, skipped steps and weights against torch's GradScaler."""

import math

import pytest
import torch
from torch import Tensor, nn

from labkit.training.efficiency.loss_scaling import (
    LossScale,
    LossScaler,
    LossScalingConfig,
    next_scale,
    unscale,
)

SHAPES = (5, 3), (7,)
CONFIG = LossScalingConfig(initial_scale=1024.0, growth_interval=3)


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def loss(weights: list[nn.Parameter], number: int) -> Tensor:
    """Steps 4, 5 and 13 overflow in one of the two parameters."""
    value = (weights[0].sum() * 0.7 + number).sin() + weights[1].pow(2).sum()
    if number in (4, 5):
        value = value + weights[0][0, 0] * 3e38
    return value + weights[1][2] * math.nan if number == 13 else value


class TestAgainstGradScaler:
    def run_torch(self, clip: float | None) -> tuple[list[float], list[nn.Parameter]]:
        weights, scales = parameters(), []
        optimizer = torch.optim.AdamW(weights, lr=0.05)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
        for number in range(20):
            optimizer.zero_grad()
            scales.append(scaler.get_scale())
            scaler.scale(loss(weights, number)).backward()
            scaler.unscale_(optimizer)
            if clip is not None:
                nn.utils.clip_grad_norm_(weights, clip)
            scaler.step(optimizer)
            scaler.update()
        return scales, weights

    @pytest.mark.parametrize("clip", [None, 0.5])
    def test_scales_skipped_steps_and_weights_are_the_same(self, clip: float | None) -> None:
        expected, theirs = self.run_torch(clip)
        weights, done = parameters(), []
        optimizer, scaler = torch.optim.AdamW(weights, lr=0.05), LossScaler(CONFIG)
        for number in range(20):
            optimizer.zero_grad()
            scaler.scaled(loss(weights, number)).backward()
            done.append(scaler.step(optimizer, clip))
        assert [step.scale for step in done] == expected
        assert [n for n, step in enumerate(done) if step.skipped] == [4, 5, 13]
        assert all(torch.allclose(a, b, rtol=1e-6) for a, b in zip(weights, theirs, strict=True))
        assert math.isfinite(done[3].grad_norm)
        assert not math.isfinite(done[4].grad_norm)


class TestNextScale:
    def test_growth_needs_finite_steps_in_a_row(self) -> None:
        state, path = LossScale(64.0), []
        for finite in (True, True, False, True, True, True, True):
            state = next_scale(state, finite, CONFIG)
            path.append((state.scale, state.finite_steps))
        assert path == [(64, 1), (64, 2), (32, 0), (32, 1), (32, 2), (64, 0), (64, 1)]

    def test_it_never_grows_beyond_float32(self) -> None:
        state = LossScale(2.0**127, finite_steps=2)
        assert next_scale(state, True, CONFIG) == LossScale(2.0**127)


def test_unscaling_rounds_nothing_and_sees_one_infinity() -> None:
    first, second = parameters()
    first.grad, second.grad = torch.full(SHAPES[0], 3e-3 * 512), None
    assert unscale([first, second], 512.0)
    assert torch.equal(first.grad, torch.full(SHAPES[0], 3e-3))
    first.grad[4, 1] = -math.inf
    assert not unscale([first], 2.0)


def test_nothing_to_step_with() -> None:
    optimizer = torch.optim.SGD(parameters(), lr=1.0)
    with pytest.raises(ValueError, match="no gradient to step with"):
        LossScaler().step(optimizer)


@pytest.mark.parametrize(
    "changes",
    [
        {"initial_scale": 0.0},
        {"initial_scale": math.inf},
        {"growth_factor": 1.0},
        {"backoff_factor": 1.0},
        {"growth_interval": 0},
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, float]) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=name):
        LossScalingConfig(**changes)
