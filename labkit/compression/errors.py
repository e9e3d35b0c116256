"""What a changed weight does to a layer's output, measured on calibration data."""

import torch
from jaxtyping import Float
from torch import Tensor


def hessian_error(
    weight: Float[Tensor, "O I"], approx: Float[Tensor, "P Q"], hessian: Float[Tensor, "J J"]
) -> float:
    """Hessian-weighted error tr(dW H dW^T) with dW = weight - approx.

    With H = (1/N) sum_n x_n x_n^T (`HessianStats.hessian`) it is the squared output error
    ||dW x||^2 averaged over the N calibration tokens.

    Paper: 2210.17323v2, equation 1.

    Args:
        weight: the original weight.
        approx: the weight that replaces it.
        hessian: second moment of the layer's inputs, symmetric.

    Returns:
        The error, summed over the O outputs, computed in float64.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    if weight.shape != approx.shape or hessian.shape != (weight.shape[1],) * 2:
        raise ValueError(
            f"weight {tuple(weight.shape)}, approx {tuple(approx.shape)} and hessian "
            f"{tuple(hessian.shape)} must be O x I, O x I and I x I"
        )
    delta = weight.double() - approx.double()
    return float(torch.sum((delta @ hessian.double()) * delta))


def relative_error(weight: Float[Tensor, "O I"], approx: Float[Tensor, "O I"]) -> float:
    """||weight - approx||_F / ||weight||_F; 0 where both are zero."""
    change = torch.linalg.norm(weight.double() - approx.double())
    size = torch.linalg.norm(weight.double())
    return float(change / size) if change > 0 else 0.0
