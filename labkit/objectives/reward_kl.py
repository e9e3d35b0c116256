"""Reward against KL where all sequences can be listed: the frontier that no policy can pass.

P prompts, N responses; a row holds the log-probabilities of all N responses to one prompt, so that
its exponentials sum to 1 and nothing is estimated from samples.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Listed = Float[Tensor, "P N"]


def sequence_kl(log_p: Listed, log_q: Listed) -> Float[Tensor, "P"]:
    """``KL(p || q) = sum_y p(y) (log p(y) - log q(y))`` over whole sequences, in nats."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def expected_reward(log_p: Listed, rewards: Listed) -> Float[Tensor, "P"]:
    """``sum_y p(y) r(y)``."""
    return (log_p.exp() * rewards).sum(-1)


def optimal_log_probs(reference: Listed, rewards: Listed, beta: float) -> Listed:
    """``pi*(y) = ref(y) exp(r(y) / beta) / Z``, the maximum of E r - beta KL(pi || ref).

    Paper: 2305.18290 (DPO), equation 4.

    Args:
        reference: Log-probabilities of the reference.
        rewards: r of every response.
        beta: Price of a nat, > 0.

    Returns:
        log pi*.

    Raises:
        ValueError: If beta is not positive.
    """
    if not beta > 0.0:
        raise ValueError(f"beta={beta} must be positive")
    return (reference + rewards / beta).log_softmax(-1)


def objective(log_p: Listed, reference: Listed, rewards: Listed, beta: float) -> Float[Tensor, "P"]:
    """``J = E_p r - beta KL(p || ref)``; at its maximum it is ``beta log Z``."""
    return expected_reward(log_p, rewards) - beta * sequence_kl(log_p, reference)


def reward_kl_frontier(
    reference: Listed, rewards: Listed, betas: Float[Tensor, "K"]
) -> tuple[Float[Tensor, "K"], Float[Tensor, "K"]]:
    """KL and reward of pi* at each beta, means over prompts: the curve above which nothing lies.

    Args:
        reference: Log-probabilities of the reference.
        rewards: r of every response.
        betas: Prices of a nat, all positive; large ones stay near the reference.

    Returns:
        KL in nats and expected reward.
    """
    best = [optimal_log_probs(reference, rewards, float(beta)) for beta in betas]
    kl = torch.stack([sequence_kl(log_p, reference).mean() for log_p in best])
    return kl, torch.stack([expected_reward(log_p, rewards).mean() for log_p in best])
