"""Distillation: a student learns a teacher's next-token distributions on given text."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from labkit.data.batch import TokenBatch
from labkit.objectives.distillation import distillation_loss
from labkit.training.config import TrainConfig
from labkit.training.forward import batch_logits
from labkit.training.loop import Loss, StepRecord, train


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig:
    """What the student is asked to match.

    Attributes:
        temperature: tau of both softmaxes; above 1 it shows the teacher's small probabilities.
        hard_weight: Share of the labels' cross-entropy; the rest is the divergence.
        direction: "forward", KL(teacher, student), or "reverse", KL(student, teacher).
    """

    temperature: float = 2.0
    hard_weight: float = 0.0
    direction: str = "forward"

    def __post_init__(self) -> None:
        """Raise ValueError with the values met and the way out."""
        if not self.temperature > 0.0:
            raise ValueError(f"temperature={self.temperature} must be positive")
        if not 0.0 <= self.hard_weight <= 1.0:
            raise ValueError(f"hard_weight={self.hard_weight} must lie between 0 and 1")
        if self.direction not in ("forward", "reverse"):
            raise ValueError(f"direction={self.direction!r} must be 'forward' or 'reverse'")


def teacher_loss(teacher: nn.Module, config: DistillConfig) -> Loss:
    """The loss of a student against a frozen teacher, in the form the training loop takes.

    Args:
        teacher: Put into eval mode; run without gradients, on every batch anew.
        config: What to match.

    Returns:
        A function of (student, batch) giving the summed loss in nats and the predicted tokens.
    """
    teacher.eval()

    def loss(student: nn.Module, batch: TokenBatch) -> tuple[Tensor, int]:
        with torch.no_grad():
            target = batch_logits(teacher, batch)
        logits = batch_logits(student, batch)
        if logits.shape[-1] != target.shape[-1]:
            raise ValueError(
                f"the student's vocabulary of {logits.shape[-1]} and the teacher's of "
                f"{target.shape[-1]} must be one: both need the same tokenizer"
            )
        return distillation_loss(
            logits,
            target,
            batch.labels,
            temperature=config.temperature,
            hard_weight=config.hard_weight,
            direction=config.direction,
        )

    return loss


def train_distillation(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[TokenBatch],
    config: TrainConfig,
    distillation: DistillConfig,
    *,
    checkpoint_dir: Path | str | None = None,
    resume: bool = False,
) -> Iterator[StepRecord]:
    """Train the student on the teacher's logits, yielding a record a step.

    Paper: 1503.02531 (Hinton et al.), section 2.
    Differs: one distribution a token instead of one a picture; the text is given, not the
    student's own (see 2306.13649 for why that matters).

    Args:
        student: Trained in place, on its own device.
        teacher: On the same device, with the same vocabulary; left as it is.
        batches: As for :func:`labkit.training.loop.train`.
        config: Optimisation.
        distillation: What to match.
        checkpoint_dir: As for ``train``.
        resume: As for ``train``.

    Yields:
        Records whose loss is the distillation loss.
    """
    loss = teacher_loss(teacher, distillation)
    return train(student, batches, config, loss=loss, checkpoint_dir=checkpoint_dir, resume=resume)
