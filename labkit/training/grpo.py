"""GRPO: several responses to each prompt, whose mean reward stands in for a critic."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from labkit.data.batch import TokenBatch
from labkit.data.preferences import Tokens
from labkit.objectives import policy_gradient
from labkit.objectives.sequence_log_probs import counted_log_probs
from labkit.training.config import TrainConfig
from labkit.training.forward import batch_logits
from labkit.training.loop import Loss
from labkit.training.policy_resumption import Resumption
from labkit.training.rollouts import (
    Generate,
    PolicyRecord,
    Reward,
    Rollouts,
    collect,
    policy_steps,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GrpoConfig:
    """Constants of GRPO; the defaults are the paper's form of the loss.

    Attributes:
        group_size: Responses a prompt, at least 2.
        kl_coef: beta of the KL term in the loss.
        kl_estimator: "k3" or "k2"; see `labkit.objectives.policy_gradient.grpo_loss`.
        clip: epsilon of the ratio.
        scale_by_std: Whether advantages are divided by their group's (unbiased) deviation.
        normalise: "sequence": every response weighs the same; "token": every token.
        epochs: Passes over a round of rollouts.
        minibatch_size: Responses.
    """

    group_size: int = 8
    kl_coef: float = 0.04
    kl_estimator: str = "k3"
    clip: float = 0.2
    scale_by_std: bool = True
    normalise: str = "sequence"
    epochs: int = 1
    minibatch_size: int = 64

    def __post_init__(self) -> None:
        """Raise ValueError with the values met and the way out."""
        if self.group_size < 2:
            raise ValueError(f"group_size={self.group_size} must be at least 2")
        if not self.kl_coef >= 0.0:
            raise ValueError(f"kl_coef={self.kl_coef} must not be negative")
        for name in ("clip", "epochs", "minibatch_size"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if self.kl_estimator not in policy_gradient.KL_ESTIMATORS:
            raise ValueError(f"kl_estimator={self.kl_estimator!r} must be 'k2' or 'k3'")
        if self.normalise not in ("sequence", "token"):
            raise ValueError(f"normalise={self.normalise!r} must be 'token' or 'sequence'")


@dataclass(frozen=True, kw_only=True, slots=True)
class GrpoRollouts(Rollouts):
    """Rollouts with one advantage a response."""

    advantages: Float[Tensor, "B"]


def train_grpo(
    policy: nn.Module,
    reference: nn.Module,
    prompts: Iterable[list[Tokens]],
    config: TrainConfig,
    grpo: GrpoConfig,
    *,
    generate: Generate,
    reward: Reward,
    pad_id: int,
    resumption: Resumption | None = None,
) -> Iterator[PolicyRecord]:
    """Train the policy on groups of its own responses, yielding a record a step.

    What it converges to is near the maximum of ``E r - beta KL(policy || reference)``, not at it:
    dividing by the deviation rescales the reward, k3's gradient is that of KL(reference || policy),
    and neither estimator's gradient sees that a token changes which prefixes come after it.

    Paper: 2402.03300 (DeepSeekMath), section 4.1, outcome supervision.

    Args:
        policy: MiniLLM or a transformers model, without dropout; trained in place.
        reference: On the same device; put into eval mode, otherwise left as it is.
        prompts: The prompts of each round of rollouts, each answered `group_size` times; endless,
            or enough.
        config: Optimisation; `steps` are optimizer steps, not rounds.
        grpo: Constants of the method.
        generate: Samples responses from the policy.
        reward: Scores them.
        pad_id: Token that fills short rows.
        resumption: Where to store the run and whether to resume it; None stores nothing.

    Yields:
        Records whose loss is a mean over responses (or over tokens, if so normalised).
    """
    reference.eval()
    sample = partial(
        collect,
        policy,
        reference,
        generate=generate,
        reward=reward,
        pad_id=pad_id,
        kl_coef=grpo.kl_coef,
        dtype=config.dtype,
    )

    source = iter(prompts)
    passes = {"epochs": grpo.epochs, "minibatch_size": grpo.minibatch_size}
    stored = Resumption() if resumption is None else resumption
    stored = stored.after(source, config, group=grpo.group_size, **passes)

    def rounds() -> Iterator[GrpoRollouts]:
        for some in source:
            repeated = [prompt for prompt in some for _ in range(grpo.group_size)]
            yield with_group_advantages(sample(repeated), grpo)

    return policy_steps(
        policy,
        rounds(),
        grpo_loss(grpo),
        config,
        resumption=stored,
        **passes,
    )


def with_group_advantages(rollouts: Rollouts, grpo: GrpoConfig) -> GrpoRollouts:
    """Advantages of rollouts in which the responses to a prompt stand together."""
    groups = rollouts.rewards.view(-1, grpo.group_size)
    advantages = policy_gradient.group_advantages(groups, scale_by_std=grpo.scale_by_std)
    known = {field.name: getattr(rollouts, field.name) for field in fields(rollouts)}
    return GrpoRollouts(**known, advantages=advantages.flatten())


def grpo_loss(grpo: GrpoConfig) -> Loss:
    """The loss of a policy on `GrpoRollouts`, summed, with the count it is to be divided by."""

    def loss(policy: nn.Module, batch: TokenBatch) -> tuple[Tensor, int]:
        assert isinstance(batch, GrpoRollouts)
        log_probs, mask = counted_log_probs(batch_logits(policy, batch), batch.labels)
        per_token = policy_gradient.grpo_loss(
            log_probs,
            batch.old_log_probs,
            batch.reference_log_probs,
            batch.advantages,
            clip=grpo.clip,
            kl_coef=grpo.kl_coef,
            kl_estimator=grpo.kl_estimator,
        )
        return policy_gradient.summed_loss(per_token, mask, normalise=grpo.normalise)

    return loss
