"""Gradient clipping by global norm."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Euclidean norm of all gradients seen as one vector, ``sqrt(sum_i ||g_i||^2)``.

    Args:
        parameters: Those without a gradient count as zero.

    Returns:
        A float32 scalar on the gradients' device.
    """
    norms = [
        torch.linalg.vector_norm(parameter.grad, dtype=torch.float32)
        for parameter in parameters
        if parameter.grad is not None
    ]
    if not norms:
        return torch.zeros(())
    together = torch.stack([norm.to(norms[0].device) for norm in norms])
    total: Tensor = torch.linalg.vector_norm(together)
    return total


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients in place by ``min(1, max_norm / (norm + 1e-6))``.

    One factor for all, so that the direction of the step stays.

    Paper: 1211.5063 (Pascanu et al.), algorithm 1.

    Args:
        parameters: Whose gradients are scaled.
        max_norm: Largest global norm left afterwards.

    Returns:
        The global norm before clipping.
    """
    parameters = list(parameters)
    norm = gradient_norm(parameters)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor.to(parameter.grad.device))
    return norm
