"""Responses sampled from the policy in training, and the steps taken on them: PPO's and GRPO's."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import count, repeat
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from labkit.data.batch import IGNORE_INDEX, TokenBatch, collate, shuffled_groups
from labkit.data.preferences import Tokens, response_example
from labkit.objectives.sequence_log_probs import counted_log_probs
from labkit.training.config import TrainConfig
from labkit.training.forward import batch_logits
from labkit.training.loop import Loss, StepRecord, train
from labkit.training.policy_resumption import PASSED_OVER, Resumption

Generate = Callable[[nn.Module, list[Tokens]], Sequence[Sequence[int]]]
"""From policy and prompts to one response each (with its end-of-sequence token), sampled anew at
every call at temperature 1: whatever else it does to the distribution, the loss does not see."""

Reward = Callable[[list[Tokens], list[Tokens]], Sequence[float]]
"""From prompts and their responses to one number each."""

RolloutsT = TypeVar("RolloutsT", bound="Rollouts")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollouts(TokenBatch):
    """Sampled responses with what was known when they were sampled; S = T - 1 predicted places.

    Attributes:
        rewards: One a response, without any penalty.
        old_log_probs: Of the response tokens under the policy that sampled them, 0 elsewhere.
        reference_log_probs: Likewise under the reference.
        kl_coef: The penalty on a nat of KL that was in force.
    """

    rewards: Float[Tensor, "B"]
    old_log_probs: Float[Tensor, "B S"]
    reference_log_probs: Float[Tensor, "B S"]
    kl_coef: float

    @property
    def mask(self) -> Bool[Tensor, "B S"]:
        """True at response tokens."""
        return self.labels[:, 1:] != IGNORE_INDEX

    @property
    def kl_nats(self) -> float:
        """Mean over responses of ``log pi(y|x) - log ref(y|x)``: unbiased for the sequence KL."""
        return (self.old_log_probs - self.reference_log_probs).sum(-1).mean().item()

    def to(self: RolloutsT, device: torch.device | str) -> RolloutsT:
        """The same rollouts on another device."""
        return _mapped(self, lambda tensor: tensor.to(device))

    def rows(self: RolloutsT, index: list[int]) -> RolloutsT:
        """Some of the responses, all that belongs to them included."""
        return _mapped(self, lambda tensor: tensor[index])


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyRecord(StepRecord):
    """A step of policy optimisation and the rollouts it was taken on.

    Attributes:
        reward: Mean over those responses, without the penalty.
        kl_nats: Estimate of KL(policy || reference) a response, when they were sampled.
        kl_coef: The penalty on a nat that was in force.
    """

    reward: float
    kl_nats: float
    kl_coef: float


@torch.no_grad()
def collect(
    policy: nn.Module,
    reference: nn.Module,
    prompts: list[Tokens],
    *,
    generate: Generate,
    reward: Reward,
    pad_id: int,
    kl_coef: float,
    dtype: str,
) -> Rollouts:
    """Sample a response to each prompt and score it, on the policy's device.

    Args:
        policy: The model that samples.
        reference: Frozen.
        prompts: As token ids.
        generate: Samples the responses.
        reward: Scores them.
        pad_id: Token that fills short rows.
        kl_coef: Noted in the rollouts.
        dtype: Of `TrainConfig`: the log-probabilities are computed as the loss will compute them,
            so that the ratio of new to old starts at 1.

    Raises:
        ValueError: Prompts, responses and rewards differ in number, or one is empty.
    """
    responses = [tuple(response) for response in generate(policy, prompts)]
    scores = list(reward(prompts, responses))
    if not len(prompts) == len(responses) == len(scores):
        raise ValueError(
            f"{len(prompts)} prompts got {len(responses)} responses and {len(scores)} rewards: "
            "generate and reward must give one for each prompt"
        )
    device = next(policy.parameters()).device
    rows = map(response_example, prompts, responses)
    batch = collate(list(rows), pad_id).to(device)
    return Rollouts(
        ids=batch.ids,
        labels=batch.labels,
        rewards=torch.tensor(scores, dtype=torch.float32, device=device),
        old_log_probs=_log_probs(policy, batch, dtype),
        reference_log_probs=_log_probs(reference, batch, dtype),
        kl_coef=kl_coef,
    )


def policy_steps(
    model: nn.Module,
    rounds: Iterable[Rollouts],
    loss: Loss,
    config: TrainConfig,
    *,
    epochs: int,
    minibatch_size: int,
    resumption: Resumption | None = None,
) -> Iterator[PolicyRecord]:
    """Go `epochs` times over each round of rollouts in minibatches, yielding a record a step.

    The next round is drawn from `rounds`, and so sampled, only when its first step is due.

    Args:
        model: What is trained.
        rounds: Lazily collected from the model as it then is.
        loss: From model and minibatch to a sum and its count.
        config: Optimisation; a step takes `accumulation` minibatches; its seed orders them.
        epochs: Passes over a round.
        minibatch_size: Responses.
        resumption: Where the run is stored and how much of it is done; `rounds` are the others.
    """
    latest: list[Rollouts] = []
    stored = Resumption() if resumption is None else resumption

    def minibatches() -> Iterator[TokenBatch]:
        drawn = stored.minibatches
        yield from repeat(PASSED_OVER, drawn)
        for number, rollouts in zip(count(stored.rounds), rounds, strict=False):
            latest[:] = [rollouts]
            # A function of seed and round, so that a resumed run has the order it would have had.
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + number)
            groups = list(shuffled_groups(len(rollouts.ids), minibatch_size, generator, epochs))
            stored.require_between_rounds(drawn, drawn + len(groups), config)
            drawn += len(groups)
            yield from (rollouts.rows(group) for group in groups)

    records = train(
        model,
        minibatches(),
        config,
        loss=loss,
        checkpoint_dir=stored.checkpoint_dir,
        resume=stored.resume,
        generator=stored.generator,
    )
    for record in records:
        [rollouts] = latest
        yield PolicyRecord(
            **asdict(record),
            reward=rollouts.rewards.mean().item(),
            kl_nats=rollouts.kl_nats,
            kl_coef=rollouts.kl_coef,
        )


def autocast(device: torch.device, dtype: str) -> torch.autocast:
    """The precision in which :func:`labkit.training.loop.train` runs its losses."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16")


def _log_probs(model: nn.Module, batch: TokenBatch, dtype: str) -> Tensor:
    with autocast(batch.ids.device, dtype):
        return counted_log_probs(batch_logits(model, batch), batch.labels)[0]


def _mapped(rollouts: RolloutsT, change: Callable[[Tensor], Tensor]) -> RolloutsT:
    tensors = {field.name: getattr(rollouts, field.name) for field in fields(rollouts)}
    changed: dict[str, Any] = {
        name: change(it) for name, it in tensors.items() if isinstance(it, Tensor)
    }
    return replace(rollouts, **changed)
