"""A model in 16 bits whose float32 master weights take the optimizer's steps."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from labkit.training.clipping import clip_gradients, gradient_norm
from labkit.training.efficiency.loss_scaling import LossScaler, ScaledStep

DTYPES = (torch.float16, torch.bfloat16)
MakeOptimizer = Callable[[list[nn.Parameter]], Optimizer]


class MasterWeights:
    """Forward and backward passes in 16 bits, updates in float32.

    An update much smaller than the weight is lost when both are added in 16 bits: bfloat16 keeps 8
    bits of a number, so that w + u == w for |u| < |w| / 512. The float32 copy collects it.
    Memory: 2 bytes for a weight, 2 for its gradient, 4 for the copy, 8 for AdamW's moments, and
    4 for the copy's gradient while the step is taken.

    Paper: arXiv 1710.03740, section 3.1.

    Args:
        model: Changed in place: its floating-point parameters are cast to `dtype`.
        dtype: torch.float16, which wants a `LossScaler`, or torch.bfloat16.
        make_optimizer: Makes an optimizer over the float32 copies.

    Raises:
        ValueError: Another dtype, nothing trains, or a parameter that trains is not in float32.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, make_optimizer: MakeOptimizer) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype={dtype} must be torch.float16 or torch.bfloat16")
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not self.trained:
            raise ValueError("no parameter of the model requires a gradient")
        if rounded := {p.dtype for p in self.trained} - {torch.float32}:
            raise ValueError(f"parameters in {rounded} have lost bits: start from float32")
        self.copies = [nn.Parameter(parameter.detach().clone()) for parameter in self.trained]
        model.to(dtype)
        self.optimizer = make_optimizer(self.copies)

    def step(
        self, *, scaler: LossScaler | None = None, clip_norm: float | None = None
    ) -> ScaledStep:
        """Take the model's gradients, step the copies, round them into the model.

        The model's gradients are cleared.

        Args:
            scaler: The one whose `scaled` loss was differentiated; None for an unscaled loss.
            clip_norm: Largest norm of the unscaled gradients over all parameters.
        """
        self._take_gradients()
        if scaler is None:
            done = self._plain_step(clip_norm)
        else:
            done = scaler.step(self.optimizer, clip_norm)
        self.optimizer.zero_grad(set_to_none=True)
        self._publish()
        return done

    def _plain_step(self, clip_norm: float | None) -> ScaledStep:
        if clip_norm is None:
            norm = gradient_norm(self.copies)
        else:
            norm = clip_gradients(self.copies, clip_norm)
        self.optimizer.step()
        return ScaledStep(scale=1.0, skipped=False, grad_norm=norm.item())

    def _take_gradients(self) -> None:
        for parameter, copy in zip(self.trained, self.copies, strict=True):
            copy.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None

    @torch.no_grad()
    def _publish(self) -> None:
        for parameter, copy in zip(self.trained, self.copies, strict=True):
            parameter.copy_(copy)


def underflow(gradients: Iterable[Tensor], dtype: torch.dtype, scale: float = 1.0) -> float:
    """The share of non-zero float32 gradients that are zero once scaled and rounded to a type."""
    lost = total = 0
    for gradient in gradients:
        alive = gradient[gradient != 0]
        total += alive.numel()
        lost += int(((alive * scale).to(dtype) == 0).sum())
    return lost / max(1, total)
