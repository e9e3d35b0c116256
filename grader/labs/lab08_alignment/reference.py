"""labkit's losses in the shapes that lab 08's exercises ask for; the source of expected values."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from labkit.objectives import kl_estimators, policy_gradient, preference, reward_kl
from labkit.objectives.language_modelling import IGNORE_INDEX
from labkit.objectives.sequence_log_probs import sequence_log_probs

Lengths = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def response_log_probs(
    logits: Tensor, ids: Tensor, response: Tensor, average: bool = False
) -> Tensor:
    """Sum or mean over the response's tokens."""
    sums, counts = sequence_log_probs(logits, ids.masked_fill(~response, IGNORE_INDEX))
    return sums / counts.clamp(min=1) if average else sums


def optimal_policy(reference: Tensor, rewards: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """labkit's optimum, and the objective's value there, beta log Z."""
    value = beta * (reference + rewards / beta).logsumexp(-1)
    return reward_kl.optimal_log_probs(reference, rewards, beta), value


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
    lengths: Lengths | None = None,
) -> tuple[Tensor, Tensor]:
    """labkit's loss and margins, of sums or of means a token."""
    pairs = [policy_chosen, policy_rejected, reference_chosen, reference_rejected]
    if lengths is not None:
        pairs = [x / n for x, n in zip(pairs, (*lengths, *lengths), strict=True)]
    margins = beta * preference.log_ratio_margin(*pairs)
    losses = preference.dpo_loss(*pairs, beta=beta, label_smoothing=label_smoothing)
    return losses, margins.detach()


def orpo_loss(chosen: Tensor, rejected: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """labkit's loss, and the log odds ratio in it."""
    ratio = preference.log_odds(chosen) - preference.log_odds(rejected)
    return preference.orpo_loss(chosen, rejected, weight=weight), ratio


def gae(
    rewards: Tensor,
    values: Tensor,
    last_values: Tensor,
    terminated: Tensor,
    lengths: Tensor,
    gamma: float,
    lam: float,
) -> tuple[Tensor, Tensor]:
    """labkit's GAE, with the discounted value after a cut episode as part of its last reward."""
    places = torch.arange(rewards.shape[1])
    is_last = places == lengths[:, None] - 1
    bootstrapped = gamma * last_values.masked_fill(terminated, 0.0)
    return policy_gradient.generalized_advantages(
        rewards + is_last * bootstrapped[:, None],
        values,
        places < lengths[:, None],
        gamma=gamma,
        lam=lam,
    )


def ppo_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    reference_log_probs: Tensor,
    advantages: Tensor,
    response: Tensor,
    clip: float,
    kl_coef: float,
    target_nats: float,
) -> tuple[Tensor, float]:
    """Whitening, clipping, k2 in the loss and k1 in the controller, all labkit's."""
    white = policy_gradient.whitened(advantages.detach(), response)
    surrogate = policy_gradient.clipped_surrogate(log_probs, old_log_probs, white, clip=clip)
    penalty = kl_estimators.k2(log_probs, reference_log_probs.detach())
    total, count = policy_gradient.summed_loss(
        surrogate + kl_coef * penalty, response, normalise="token"
    )
    sampled = kl_estimators.k1(old_log_probs, reference_log_probs).detach()
    kl_nats = sampled.masked_fill(~response, 0.0).sum(-1).mean().item()
    return total / count, kl_estimators.adapted_kl_coef(kl_coef, kl_nats, target_nats)


def group_advantages(rewards: Tensor, groups: Tensor, scale_by_std: bool = True) -> Tensor:
    """labkit's, group by group; one reward alone says nothing."""
    advantages = torch.zeros_like(rewards)
    for group in groups.unique():
        members = groups == group
        if members.sum() > 1:
            row = rewards[members][None]
            advantages[members] = policy_gradient.group_advantages(row, scale_by_std=scale_by_std)[
                0
            ]
    return advantages


def diagnose(loss: Loss, beta: int) -> str:
    """The first fault whose probe comes back otherwise than labkit's loss."""
    response = torch.tensor([[False, True, True, False], [False, True, True, True]])
    none = torch.zeros(2, 4)
    raised, prompt = none.clone(), none.clone()
    raised[0, 1], prompt[0, 0] = 0.5, 0.5

    def healthy(policy: Tensor, reference: Tensor) -> bool:
        sums = [(rows * response).sum(1) for rows in (policy, reference)]
        pairs = [row for rows in sums for row in rows.split(1)]
        expected = preference.dpo_loss(*pairs, beta=float(beta))
        return torch.allclose(loss(policy, reference, response), expected, atol=1e-4)

    if not healthy(prompt, none):
        return "prompt_counted"
    if not healthy(raised, none):
        risen = loss(raised, none, response) > loss(none, none, response)
        return "swapped" if bool(risen) else "mean_over_length"
    return "healthy" if healthy(none, raised) else "beta_on_policy"


IMPLEMENTATIONS: dict[str, Any] = {
    "response_log_probs": response_log_probs,
    "optimal_policy": optimal_policy,
    "dpo_loss": dpo_loss,
    "orpo_loss": orpo_loss,
    "gae": gae,
    "ppo_loss": ppo_loss,
    "group_advantages": group_advantages,
    "diagnose": diagnose,
}
