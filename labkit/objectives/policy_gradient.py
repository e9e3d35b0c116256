"""Losses and advantages of PPO and GRPO, a value for each response token.

A mask marks the tokens that count; the rest (prompt, padding) changes nothing anywhere.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from labkit.objectives.kl_estimators import k2, k3

PerToken = Float[Tensor, "B T"]
Mask = Bool[Tensor, "B T"]

KL_ESTIMATORS = {"k2": k2, "k3": k3}


def generalized_advantages(
    rewards: PerToken, values: PerToken, mask: Mask, *, gamma: float, lam: float
) -> tuple[PerToken, PerToken]:
    """GAE, ``A_t = sum_l (gamma lam)^l delta_{t+l}``, ``delta_t = r_t + gamma V_{t+1} - V_t``.

    The value after a row's last counted token is 0: a response ends there, for good. Tokens that
    do not count are passed over as if they were not there.

    Paper: 1506.02438 (GAE), equation 16.

    Args:
        rewards: r_t for producing token t.
        values: V_t, the value of what stands before token t.
        mask: True at response tokens.
        gamma: Discount of rewards, in [0, 1].
        lam: lambda in [0, 1]; 0 trusts the values, 1 the rewards seen.

    Returns:
        Advantages and returns ``A_t + V_t`` (the values' targets), without gradient, 0 where
        nothing counts.

    Raises:
        ValueError: If gamma or lam is out of its range.
    """
    if not (0.0 <= gamma <= 1.0 and 0.0 <= lam <= 1.0):
        raise ValueError(f"gamma={gamma} and lam={lam} must lie between 0 and 1")
    rewards, values = rewards.detach(), values.detach()
    advantages = torch.zeros_like(values)
    advantage = next_value = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        counted = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = torch.where(counted, delta + gamma * lam * advantage, advantage)
        next_value = torch.where(counted, values[:, t], next_value)
        advantages[:, t] = advantage.masked_fill(~counted, 0.0)
    return advantages, (advantages + values).masked_fill(~mask, 0.0)


def whitened(values: PerToken, mask: Mask) -> PerToken:
    """Mean 0 and variance 1 over counted tokens, 0 elsewhere; the variance is the biased one."""
    count = mask.sum().clamp(min=1)
    mean = values.masked_fill(~mask, 0.0).sum() / count
    centred = (values - mean).masked_fill(~mask, 0.0)
    return centred / (centred.square().sum() / count + 1e-8).sqrt()


def clipped_surrogate(
    log_probs: PerToken, old_log_probs: PerToken, advantages: PerToken, *, clip: float
) -> PerToken:
    """``-min(rho A, clip(rho, 1 - clip, 1 + clip) A)`` a token, ``rho = pi(a) / pi_old(a)``.

    While rho is 1 it is -A, and its gradient is that of the policy gradient.

    Paper: 1707.06347 (PPO), equation 7.

    Args:
        log_probs: Of the tokens taken, under the policy being trained.
        old_log_probs: The same when they were sampled; no gradient.
        advantages: A; no gradient.
        clip: epsilon > 0.

    Raises:
        ValueError: If the clip is not positive.
    """
    if not clip > 0.0:
        raise ValueError(f"clip={clip} must be positive")
    ratio = (log_probs - old_log_probs.detach()).exp()
    A = advantages.detach()
    return -torch.minimum(ratio * A, ratio.clamp(1.0 - clip, 1.0 + clip) * A)


def clipped_value_loss(
    values: PerToken, old_values: PerToken, returns: PerToken, *, clip: float | None
) -> PerToken:
    """``max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) / 2``, a loss a token.

    Differs: the square of 1707.06347, equation 9, has no clip; this is the one of OpenAI's code.

    Args:
        values: V being trained.
        old_values: V when the responses were sampled; no gradient.
        returns: R, the targets; no gradient.
        clip: c > 0, or None for the plain square.

    Raises:
        ValueError: If the clip is not positive.
    """
    R = returns.detach()
    squares = (values - R).square()
    if clip is None:
        return 0.5 * squares
    if not clip > 0.0:
        raise ValueError(f"clip={clip} must be positive, or None for none")
    old = old_values.detach()
    clipped = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum(squares, (clipped - R).square())


def group_advantages(
    rewards: Float[Tensor, "P N"], *, scale_by_std: bool = True
) -> Float[Tensor, "P N"]:
    """GRPO's baseline: each reward less its group's mean, over its standard deviation + 1e-4.

    The standard deviation is the unbiased one, over N - 1, as in trl (the paper does not say). A
    group of equal rewards gets advantages 0. Without the division, as 2503.20783 (Dr. GRPO)
    argues, easy and hard prompts keep the weight that their rewards give them.

    Paper: 2402.03300 (DeepSeekMath), section 4.1.2.

    Args:
        rewards: One row a prompt, one column a response.
        scale_by_std: Whether to divide.

    Raises:
        ValueError: If a group has one response only: its advantage would always be 0.
    """
    N = rewards.shape[1]
    if N < 2:
        raise ValueError(f"a group of {N} has no baseline: sample at least 2 responses a prompt")
    centred = rewards - rewards.mean(-1, keepdim=True)
    return centred / (rewards.std(-1, keepdim=True) + 1e-4) if scale_by_std else centred


def grpo_loss(
    log_probs: PerToken,
    old_log_probs: PerToken,
    reference_log_probs: PerToken,
    advantages: Float[Tensor, "B"],
    *,
    clip: float,
    kl_coef: float,
    kl_estimator: str = "k3",
) -> PerToken:
    """`clipped_surrogate` with the response's advantage at every token, plus ``kl_coef * KL_t``.

    Paper: 2402.03300 (DeepSeekMath), equation 3, before its means over tokens and responses.

    Args:
        log_probs: Under the policy being trained.
        old_log_probs: When sampled; no gradient.
        reference_log_probs: Of the frozen reference; no gradient.
        advantages: One a response, from `group_advantages`.
        clip: epsilon > 0.
        kl_coef: beta >= 0.
        kl_estimator: "k3" as in the paper, whose gradient is that of KL(ref || pi), or "k2",
            whose gradient is that of KL(pi || ref).

    Raises:
        ValueError: If the estimator is unknown or the clip is not positive.
    """
    if kl_estimator not in KL_ESTIMATORS:
        raise ValueError(f"kl_estimator={kl_estimator!r} must be one of {sorted(KL_ESTIMATORS)}")
    spread = advantages[:, None].expand_as(log_probs)
    surrogate = clipped_surrogate(log_probs, old_log_probs, spread, clip=clip)
    kl = KL_ESTIMATORS[kl_estimator](log_probs, reference_log_probs.detach())
    return surrogate + kl_coef * kl


def summed_loss(
    per_token: PerToken, mask: Mask, *, normalise: str
) -> tuple[Float[Tensor, ""], int]:
    """Sum over counted tokens with its count, for one division after all micro-batches.

    Args:
        per_token: A loss a token.
        mask: True at response tokens.
        normalise: "token": every token weighs the same. "sequence": every response does,
            ``sum_i 1/|y_i| sum_t``, the length normalisation of 2402.03300, equation 3; a token
            of a long response weighs less.

    Returns:
        The sum, and the number of tokens or of responses that have one.

    Raises:
        ValueError: If `normalise` is neither.
    """
    sums, lengths = per_token.masked_fill(~mask, 0.0).sum(-1), mask.sum(-1)
    if normalise == "token":
        return sums.sum(), int(lengths.sum())
    if normalise == "sequence":
        return (sums / lengths.clamp(min=1)).sum(), int((lengths > 0).sum())
    raise ValueError(f"normalise={normalise!r} must be 'token' or 'sequence'")
