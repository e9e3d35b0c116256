"""Learning from preferences without a reward model: DPO, IPO, ORPO and KTO in one loop."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labkit.data.batch import TokenBatch
from labkit.data.preferences import FeedbackBatch
from labkit.objectives import preference as objectives
from labkit.objectives.sequence_log_probs import sequence_log_probs
from labkit.training.config import TrainConfig
from labkit.training.forward import batch_logits
from labkit.training.loop import Loss, StepRecord, train
from labkit.training.reward_model import halves

METHODS = ("dpo", "ipo", "orpo", "kto")


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceConfig:
    """Which loss, and its constants.

    Attributes:
        method: "dpo", "ipo" (on mean log-probabilities a token), "orpo" on pairs; "kto" on single
            rated responses.
        beta: Strength of the pull to the reference; of ORPO the weight lambda of the odds ratio.
        label_smoothing: Of DPO: the share of preferences noted the wrong way round.
        desirable_weight: Of KTO's liked responses.
        undesirable_weight: Of KTO's disliked ones.
    """

    method: str = "dpo"
    beta: float = 0.1
    label_smoothing: float = 0.0
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError with the values met and the way out."""
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r} must be one of {METHODS}")
        if not self.beta > 0.0:
            raise ValueError(f"beta={self.beta} must be positive")
        if not 0.0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing={self.label_smoothing} must lie in [0, 0.5)")
        if self.label_smoothing and self.method != "dpo":
            raise ValueError(f"label_smoothing belongs to method='dpo', not {self.method!r}")
        if not (self.desirable_weight > 0.0 and self.undesirable_weight > 0.0):
            raise ValueError(
                f"desirable_weight={self.desirable_weight} and "
                f"undesirable_weight={self.undesirable_weight} must be positive"
            )
        if self.method != "kto" and (self.desirable_weight, self.undesirable_weight) != (1.0, 1.0):
            raise ValueError(f"weights of responses belong to method='kto', not {self.method!r}")


def preference_loss(reference: nn.Module | None, config: PreferenceConfig) -> Loss:
    """The loss of a policy against a frozen reference, in the form the training loop takes.

    Args:
        reference: Put into eval mode; run without gradients, on every batch anew. None for ORPO,
            which has none.
        config: Which loss.

    Returns:
        A function of (policy, batch) giving the summed loss and the number of pairs (of KTO: of
        responses).

    Raises:
        ValueError: The method needs a reference and has none, or the other way round.
    """
    if (reference is None) != (config.method == "orpo"):
        needs = "takes no reference" if config.method == "orpo" else "needs a reference"
        raise ValueError(f"method={config.method!r} {needs}")
    if reference is None:
        return _orpo(config)
    reference.eval()
    return _kto(reference, config) if config.method == "kto" else _pairs(reference, config)


def train_preferences(
    policy: nn.Module,
    reference: nn.Module | None,
    batches: Iterable[TokenBatch],
    config: TrainConfig,
    preference: PreferenceConfig,
    *,
    checkpoint_dir: Path | str | None = None,
    resume: bool = False,
) -> Iterator[StepRecord]:
    """Train the policy on preferences, yielding a record a step.

    Accumulating micro-batches equals one large batch for DPO, IPO and ORPO; KTO's baseline is
    estimated in each micro-batch by itself.

    Args:
        policy: MiniLLM or a transformers model; trained in place.
        reference: On the same device; left as it is. None for ORPO.
        batches: From `preference_batches` in `labkit.data.preferences`; for KTO, from
            `feedback_batches`.
        config: Optimisation.
        preference: Which loss.
        checkpoint_dir: As for :func:`labkit.training.loop.train`.
        resume: As for ``train``.

    Yields:
        Records whose loss is a mean over pairs (KTO: responses), counted as `tokens`.
    """
    loss = preference_loss(reference, preference)
    return train(policy, batches, config, loss=loss, checkpoint_dir=checkpoint_dir, resume=resume)


def implicit_margins(
    policy: nn.Module, reference: nn.Module, batch: TokenBatch, beta: float
) -> Float[Tensor, "P"]:
    """``beta h`` of each pair: how much better DPO's implicit reward finds the chosen response.

    The share of positive ones is the accuracy to watch on held-out pairs.
    """
    with torch.no_grad():
        chosen, rejected = halves(_log_probs(policy, batch))
        kept, left = halves(_log_probs(reference, batch))
    return beta * objectives.log_ratio_margin(chosen, rejected, kept, left)


def _pairs(reference: nn.Module, config: PreferenceConfig) -> Loss:
    mean = config.method == "ipo"

    def loss(policy: nn.Module, batch: TokenBatch) -> tuple[Tensor, int]:
        with torch.no_grad():
            fixed = halves(_log_probs(reference, batch, mean=mean))
        pairs = (*halves(_log_probs(policy, batch, mean=mean)), *fixed)
        if config.method == "ipo":
            losses = objectives.ipo_loss(*pairs, beta=config.beta)
        else:
            losses = objectives.dpo_loss(
                *pairs, beta=config.beta, label_smoothing=config.label_smoothing
            )
        return losses.sum(), len(losses)

    return loss


def _orpo(config: PreferenceConfig) -> Loss:
    def loss(policy: nn.Module, batch: TokenBatch) -> tuple[Tensor, int]:
        chosen, rejected = halves(_log_probs(policy, batch, mean=True))
        losses = objectives.orpo_loss(chosen, rejected, weight=config.beta)
        return losses.sum(), len(losses)

    return loss


def _kto(reference: nn.Module, config: PreferenceConfig) -> Loss:
    def loss(policy: nn.Module, batch: TokenBatch) -> tuple[Tensor, int]:
        if not isinstance(batch, FeedbackBatch):
            raise ValueError("method='kto' needs rated responses: use feedback_batches")
        with torch.no_grad():
            fixed = _log_probs(reference, batch)
            baseline = objectives.kto_baseline(
                _log_probs(policy, batch.mismatched), _log_probs(reference, batch.mismatched)
            )
        losses = objectives.kto_loss(
            _log_probs(policy, batch),
            fixed,
            batch.desirable,
            baseline,
            beta=config.beta,
            desirable_weight=config.desirable_weight,
            undesirable_weight=config.undesirable_weight,
        )
        return losses.sum(), len(losses)

    return loss


def _log_probs(model: nn.Module, batch: TokenBatch, *, mean: bool = False) -> Tensor:
    """Log-probability of each row's response, or its mean a token."""
    sums, lengths = sequence_log_probs(batch_logits(model, batch), batch.labels)
    return sums / lengths.clamp(min=1) if mean else sums
