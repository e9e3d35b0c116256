"""PPO: a policy climbs a reward, held near a reference by a penalty in the reward itself."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labkit.data.batch import TokenBatch
from labkit.data.preferences import Tokens
from labkit.objectives import policy_gradient
from labkit.objectives.kl_estimators import adapted_kl_coef, k1
from labkit.objectives.sequence_log_probs import counted_log_probs
from labkit.training.config import TrainConfig
from labkit.training.forward import batch_logits
from labkit.training.loop import Loss
from labkit.training.policy_resumption import Resumption
from labkit.training.reward_model import TokenScorer
from labkit.training.rollouts import (
    Generate,
    PolicyRecord,
    Reward,
    Rollouts,
    autocast,
    collect,
    policy_steps,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PpoConfig:
    """Constants of PPO.

    Attributes:
        kl_coef: beta, the price of a nat of KL(policy || reference); where `target_kl` is given,
            its first value.
        target_kl: Nats a response that beta is steered towards; None keeps beta.
        clip: epsilon of the ratio.
        value_clip: How far a value may move in a round; None for any.
        value_weight: Of the value loss beside the policy's.
        gamma: Discount.
        lam: lambda of GAE.
        whiten: Advantages of a round get mean 0 and variance 1.
        epochs: Passes over a round of rollouts.
        minibatch_size: Responses.
    """

    kl_coef: float = 0.05
    target_kl: float | None = None
    clip: float = 0.2
    value_clip: float | None = 0.2
    value_weight: float = 0.5
    gamma: float = 1.0
    lam: float = 0.95
    whiten: bool = True
    epochs: int = 4
    minibatch_size: int = 64

    def __post_init__(self) -> None:
        """Raise ValueError with the values met and the way out."""
        for name in ("kl_coef", "value_weight"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        for name in ("target_kl", "clip", "value_clip", "epochs", "minibatch_size"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} must be positive")
        if not (0.0 <= self.gamma <= 1.0 and 0.0 <= self.lam <= 1.0):
            raise ValueError(f"gamma={self.gamma} and lam={self.lam} must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class PpoRollouts(Rollouts):
    """Rollouts with GAE's results; all are 0 off the response.

    Attributes:
        values: The critic's, before each response token.
        advantages: Of penalised rewards, whitened if asked for.
        returns: The values' targets.
    """

    values: Float[Tensor, "B S"]
    advantages: Float[Tensor, "B S"]
    returns: Float[Tensor, "B S"]


class ActorCritic(nn.Module):
    """Policy and critic as one module, so that one optimizer steps both.

    The price of a nat in the next round is a buffer, so that checkpoints hold it too.
    """

    kl_coef: Tensor

    def __init__(self, policy: nn.Module, critic: TokenScorer, kl_coef: float = 0.0) -> None:
        super().__init__()
        self.policy = policy
        self.critic = critic
        self.register_buffer("kl_coef", torch.tensor(kl_coef, dtype=torch.float64))


def train_ppo(
    policy: nn.Module,
    reference: nn.Module,
    critic: TokenScorer,
    prompts: Iterable[list[Tokens]],
    config: TrainConfig,
    ppo: PpoConfig,
    *,
    generate: Generate,
    reward: Reward,
    pad_id: int,
    resumption: Resumption | None = None,
) -> Iterator[PolicyRecord]:
    """Train policy and critic on the policy's own responses, yielding a record a step.

    The fixed point is the maximum of ``E r - beta KL(policy || reference)`` over whole responses
    (`labkit.objectives.reward_kl.optimal_log_probs`), as far as the policy can represent it.

    Paper: 1707.06347 (PPO); 2203.02155 (InstructGPT), section 3.5, for the penalty a token.
    Differs: there is no pretraining term and no entropy bonus. A response cut by its length limit
    counts as ended.

    Args:
        policy: MiniLLM or a transformers model; trained in place. Without dropout, or its ratio to
            the sampling policy does not start at 1.
        reference: On the same device; put into eval mode, otherwise left as it is.
        critic: Likewise on the same device; trained in place.
        prompts: The prompts of each round of rollouts, one response each; endless, or enough.
        config: Optimisation; `steps` are optimizer steps, not rounds.
        ppo: Constants of the method.
        generate: Samples responses from the policy.
        reward: Scores them.
        pad_id: Token that fills short rows.
        resumption: Where to store the run and whether to resume it; None stores nothing.

    Yields:
        Records whose loss is a mean over response tokens of policy and value loss.
    """
    reference.eval()
    sample = partial(
        collect,
        policy,
        reference,
        generate=generate,
        reward=reward,
        pad_id=pad_id,
        dtype=config.dtype,
    )
    both, source = ActorCritic(policy, critic, ppo.kl_coef), iter(prompts)
    passes = {"epochs": ppo.epochs, "minibatch_size": ppo.minibatch_size}
    stored = Resumption() if resumption is None else resumption
    stored = stored.after(source, config, group=1, **passes)
    return policy_steps(
        both,
        _rounds(sample, source, both, ppo, config.dtype),
        ppo_loss(ppo),
        config,
        resumption=stored,
        **passes,
    )


def _rounds(
    sample: Callable[..., Rollouts],
    prompts: Iterable[list[Tokens]],
    both: ActorCritic,
    ppo: PpoConfig,
    dtype: str,
) -> Iterator[PpoRollouts]:
    """Rollouts with advantages; the penalty of a round follows from the divergence of the last."""
    for some in prompts:
        kl_coef = both.kl_coef.item()
        rollouts = sample(some, kl_coef=kl_coef)
        if ppo.target_kl is not None:
            both.kl_coef.fill_(adapted_kl_coef(kl_coef, rollouts.kl_nats, ppo.target_kl))
        yield with_advantages(rollouts, both.critic, ppo, dtype)


@torch.no_grad()
def with_advantages(
    rollouts: Rollouts, critic: TokenScorer, ppo: PpoConfig, dtype: str
) -> PpoRollouts:
    """Values, penalised rewards and their advantages.

    The reward of token t is ``-beta (log pi(y_t) - log ref(y_t))``, and the response's reward on
    top at its last token.
    """
    mask = rollouts.mask
    with autocast(rollouts.ids.device, dtype):
        values = critic(rollouts)[:, :-1].masked_fill(~mask, 0.0)
    penalty = k1(rollouts.old_log_probs, rollouts.reference_log_probs)
    is_last = mask & (mask.flip(-1).cumsum(-1).flip(-1) == 1)
    rewards = is_last * rollouts.rewards[:, None] - rollouts.kl_coef * penalty
    advantages, returns = policy_gradient.generalized_advantages(
        rewards, values, mask, gamma=ppo.gamma, lam=ppo.lam
    )
    if ppo.whiten:
        advantages = policy_gradient.whitened(advantages, mask)
    known = {field.name: getattr(rollouts, field.name) for field in fields(rollouts)}
    return PpoRollouts(**known, values=values, advantages=advantages, returns=returns)


def ppo_loss(ppo: PpoConfig) -> Loss:
    """The clipped losses of an `ActorCritic` on `PpoRollouts`, summed, with the token count."""

    def loss(model: nn.Module, batch: TokenBatch) -> tuple[Tensor, int]:
        assert isinstance(model, ActorCritic)
        assert isinstance(batch, PpoRollouts)
        log_probs, mask = counted_log_probs(batch_logits(model.policy, batch), batch.labels)
        surrogate = policy_gradient.clipped_surrogate(
            log_probs, batch.old_log_probs, batch.advantages, clip=ppo.clip
        )
        values: Tensor = model.critic(batch)[:, :-1]
        value_loss = policy_gradient.clipped_value_loss(
            values, batch.values, batch.returns, clip=ppo.value_clip
        )
        per_token = surrogate + ppo.value_weight * value_loss
        return policy_gradient.summed_loss(per_token, mask, normalise="token")

    return loss
