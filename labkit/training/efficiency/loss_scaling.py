"""Dynamic loss scaling: float16 gradients kept out of the range where they become zero."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from labkit.training.clipping import clip_gradients, gradient_norm

_LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True, kw_only=True, slots=True)
class LossScalingConfig:
    """How the scale moves.

    Attributes:
        initial_scale: Factor on the loss at the start.
        growth_factor: On the scale, after `growth_interval` finite steps in a row.
        backoff_factor: On the scale, after a step whose gradients were not finite.
        growth_interval: Finite steps in a row before the scale grows.
    """

    initial_scale: float = 2.0**16
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000

    def __post_init__(self) -> None:
        """Raise ValueError with the values met."""
        if not 0 < self.initial_scale <= _LARGEST:
            raise ValueError(f"initial_scale={self.initial_scale} must be positive and finite")
        if not self.growth_factor > 1:
            raise ValueError(f"growth_factor={self.growth_factor} must exceed 1")
        if not 0 < self.backoff_factor < 1:
            raise ValueError(f"backoff_factor={self.backoff_factor} must lie between 0 and 1")
        if self.growth_interval < 1:
            raise ValueError(f"growth_interval={self.growth_interval} must be at least 1")


@dataclass(frozen=True, slots=True)
class LossScale:
    """The scale, and how many finite steps in a row it has seen."""

    scale: float
    finite_steps: int = 0


def next_scale(state: LossScale, finite: bool, config: LossScalingConfig) -> LossScale:
    """After an overflow smaller at once; after many finite steps in a row larger.

    Paper: arXiv 1710.03740, section 3.2, asks for a factor that causes no overflow; the rule that
    finds one is that of torch's GradScaler, which also refuses to grow beyond float32.
    """
    if not finite:
        return LossScale(state.scale * config.backoff_factor)
    steps = state.finite_steps + 1
    if steps < config.growth_interval:
        return LossScale(state.scale, steps)
    grown = state.scale * config.growth_factor
    return LossScale(grown if grown <= _LARGEST else state.scale)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaledStep:
    """What one step did.

    Attributes:
        scale: The factor that was on the loss.
        skipped: Whether gradients were not finite, so that the weights stayed.
        grad_norm: Of the unscaled gradients before clipping; not finite where it was skipped.
    """

    scale: float
    skipped: bool
    grad_norm: float


class LossScaler:
    """Multiplies losses, divides gradients, and leaves out the steps that overflowed."""

    def __init__(self, config: LossScalingConfig | None = None) -> None:
        self.config = LossScalingConfig() if config is None else config
        self.state = LossScale(self.config.initial_scale)

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to call `backward` on."""
        return loss * self.state.scale

    def step(self, optimizer: Optimizer, clip_norm: float | None = None) -> ScaledStep:
        """Unscale, look whether all is finite, clip, step; then move the scale.

        In this order: a norm of scaled gradients would be clipped by a limit on unscaled ones.
        Gradients stay in `.grad`, unscaled, for the caller to clear.

        Raises:
            ValueError: No parameter of the optimizer has a gradient.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if all(parameter.grad is None for parameter in parameters):
            raise ValueError("no gradient to step with: call backward on the scaled loss first")
        scale = self.state.scale
        finite = unscale(parameters, scale)
        norm = gradient_norm(parameters) if clip_norm is None else None
        if finite:
            norm = norm if clip_norm is None else clip_gradients(parameters, clip_norm)
            optimizer.step()
        self.state = next_scale(self.state, finite, self.config)
        value = math.nan if norm is None else norm.item()
        return ScaledStep(scale=scale, skipped=not finite, grad_norm=value)


@torch.no_grad()
def unscale(parameters: Iterable[Tensor], scale: float) -> bool:
    """Divide all gradients by the scale, in place; whether all of them are finite.

    A factor that is a power of two changes exponents only: nothing is rounded.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for gradient in gradients:
        gradient.mul_(1.0 / scale)
    return all(bool(gradient.isfinite().all()) for gradient in gradients)
