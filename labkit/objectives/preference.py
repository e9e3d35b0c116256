"""Losses that learn from which of two responses is preferred, or from thumbs up and down.

Each returns one loss a pair (or a response), not a mean: micro-batches of any size then add up.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

PerPair = Float[Tensor, "B"]


def bradley_terry_loss(chosen_rewards: PerPair, rejected_rewards: PerPair) -> PerPair:
    """``-log sigmoid(r(x, y_w) - r(x, y_l))``, what a reward model is trained on.

    Paper: 2203.02155 (InstructGPT), equation 1, for one pair a prompt.

    Args:
        chosen_rewards: Scores of the preferred responses.
        rejected_rewards: Scores of the others.
    """
    return -functional.logsigmoid(chosen_rewards - rejected_rewards)


def dpo_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> PerPair:
    """``-log sigmoid(beta h)``, h the `log_ratio_margin` of policy over reference.

    It is log 2 where policy and reference agree. With label smoothing epsilon, the probability
    that a preference was noted the wrong way round, it is
    ``-(1 - epsilon) log sigmoid(beta h) - epsilon log sigmoid(-beta h)``.

    Paper: 2305.18290 (DPO), equation 7.

    Args:
        policy_chosen: Sequence log-probabilities in nats, sums over the response's tokens.
        policy_rejected: Likewise.
        reference_chosen: Likewise, of the frozen reference.
        reference_rejected: Likewise.
        beta: Strength of the pull to the reference, > 0.
        label_smoothing: epsilon in [0, 0.5).

    Raises:
        ValueError: If a value is out of its range.
    """
    if not 0.0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing={label_smoothing} must lie in [0, 0.5)")
    margin = _require_positive(beta) * log_ratio_margin(
        policy_chosen, policy_rejected, reference_chosen, reference_rejected
    )
    right, wrong = functional.logsigmoid(margin), functional.logsigmoid(-margin)
    return -(1.0 - label_smoothing) * right - label_smoothing * wrong


def ipo_loss(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
    *,
    beta: float,
) -> PerPair:
    """``(h - 1 / (2 beta))^2``: the margin is drawn to a finite value, not to infinity.

    Paper: 2310.12036 (IPO), equation 17; beta is the paper's tau.

    Args:
        policy_chosen: Log-probabilities in nats. The paper's are sums; given means a token, as trl
            does, the target does not depend on length.
        policy_rejected: Likewise.
        reference_chosen: Likewise, of the frozen reference.
        reference_rejected: Likewise.
        beta: > 0; small values ask for a large margin.

    Raises:
        ValueError: If beta is not positive.
    """
    target = 1.0 / (2.0 * _require_positive(beta))
    margin = log_ratio_margin(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return (margin - target) ** 2


def log_ratio_margin(
    policy_chosen: PerPair,
    policy_rejected: PerPair,
    reference_chosen: PerPair,
    reference_rejected: PerPair,
) -> PerPair:
    """``h = log pi(y_w)/ref(y_w) - log pi(y_l)/ref(y_l)``: beta h is the implicit reward's margin.

    No gradient flows into the reference.
    """
    chosen = policy_chosen - reference_chosen.detach()
    return chosen - (policy_rejected - reference_rejected.detach())


def orpo_loss(
    chosen_mean_log_probs: PerPair, rejected_mean_log_probs: PerPair, *, weight: float
) -> PerPair:
    """``-log p_w - weight * log sigmoid(log odds(p_w) - log odds(p_l))``, odds(p) = p / (1 - p).

    p is the geometric mean of a response's token probabilities. There is no reference: the first
    term is supervised fine-tuning on the chosen response.

    Paper: 2403.07691 (ORPO), equations 6 and 7; the weight is its lambda.
    Differs: the first term is a mean over each response before the mean over pairs; trl's is a
    mean over all tokens of the batch, prompts included.

    Args:
        chosen_mean_log_probs: Mean log-probability a token in nats, below 0.
        rejected_mean_log_probs: Likewise.
        weight: lambda >= 0 of the odds ratio.

    Raises:
        ValueError: If the weight is negative.
    """
    if not weight >= 0.0:
        raise ValueError(f"weight={weight} must not be negative")
    ratio = log_odds(chosen_mean_log_probs) - log_odds(rejected_mean_log_probs)
    return -chosen_mean_log_probs - weight * functional.logsigmoid(ratio)


def log_odds(log_probs: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """``log(p / (1 - p))`` from log p, exact for p near 0 and near 1."""
    # A saturated model's log p rounds to 0, where the odds are infinite and the gradient is not a
    # number.
    below_one = log_probs.clamp(max=-torch.finfo(log_probs.dtype).tiny)
    return below_one - (-below_one.expm1()).log()


def kto_loss(
    policy: PerPair,
    reference: PerPair,
    desirable: Bool[Tensor, "B"],
    baseline: Float[Tensor, ""],
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> PerPair:
    """``w_D (1 - sigmoid(beta (r - z)))`` of a good response, ``w_U (1 - sigmoid(beta (z - r)))``.

    ``r = log pi(y|x) - log ref(y|x)``, and z is the KL divergence of policy from reference: a
    response counts as a gain only in so far as its ratio is above what is usual.

    Paper: 2402.01306 (KTO).

    Args:
        policy: Sequence log-probabilities in nats.
        reference: Likewise, of the frozen reference.
        desirable: True where the response was liked.
        baseline: z in nats, from `kto_baseline`; no gradient flows into it.
        beta: Risk aversion, > 0.
        desirable_weight: w_D, to even out how many responses of either kind there are.
        undesirable_weight: w_U.

    Raises:
        ValueError: If beta is not positive.
    """
    gain = _require_positive(beta) * (policy - reference.detach() - baseline.detach())
    sign = desirable.to(gain.dtype) * 2.0 - 1.0
    weight = (
        desirable.to(gain.dtype) * desirable_weight
        + (~desirable).to(gain.dtype) * undesirable_weight
    )
    return weight * (1.0 - (sign * gain).sigmoid())


def kto_baseline(policy: PerPair, reference: PerPair) -> Float[Tensor, ""]:
    """``max(0, mean(log pi(y'|x) - log ref(y'|x)))`` over responses y' that answer other prompts.

    Paper: 2402.01306 (KTO): a biased but cheap estimate of the divergence, without gradient.

    Args:
        policy: Sequence log-probabilities in nats of mismatched prompts and responses.
        reference: Likewise, of the frozen reference.
    """
    return (policy - reference).mean().clamp(min=0.0).detach()


def _require_positive(beta: float) -> float:
    if not beta > 0.0:
        raise ValueError(f"beta={beta} must be positive")
    return beta
