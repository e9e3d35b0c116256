"""Estimates of KL(p || q) from samples of p, and the controller of a penalty on it.

With ``d = log p(x) - log q(x)`` for x drawn from p. Source: J. Schulman, "Approximating KL
divergence", 2020 (no arXiv number).
"""

from jaxtyping import Float
from torch import Tensor

ERROR_CLIP = 0.2


def k1(log_p: Float[Tensor, "*B"], log_q: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """``d``: unbiased, of high variance, negative for about half of the samples."""
    return log_p - log_q


def k2(log_p: Float[Tensor, "*B"], log_q: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """``d^2 / 2``: biased, of low variance; its gradient is that of KL(p || q) in expectation."""
    return 0.5 * (log_p - log_q) ** 2


def k3(log_p: Float[Tensor, "*B"], log_q: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """``exp(-d) - 1 + d``: unbiased, never negative, of low variance where p and q are close.

    As a loss its gradient is, in expectation, that of the *other* direction, KL(q || p).

    Paper: 2402.03300 (DeepSeekMath), equation 4.
    """
    d = log_p - log_q
    return (-d).expm1() + d


def adapted_kl_coef(kl_coef: float, kl_nats: float, target_nats: float, rate: float = 0.1) -> float:
    """``beta (1 + rate e)`` with ``e = clip(KL / target - 1, -0.2, 0.2)``.

    Raises the penalty while the policy is farther from the reference than wanted.

    Paper: 1909.08593 (Ziegler et al.), section 2.2.

    Args:
        kl_coef: The coefficient so far.
        kl_nats: The divergence seen, in nats a sequence.
        target_nats: The divergence wanted, > 0.
        rate: K_beta, the largest relative change divided by 0.2.

    Raises:
        ValueError: If the target is not positive.
    """
    if not target_nats > 0.0:
        raise ValueError(f"target_nats={target_nats} must be positive")
    error = min(max(kl_nats / target_nats - 1.0, -ERROR_CLIP), ERROR_CLIP)
    return kl_coef * (1.0 + rate * error)
