"""A training run as an object: model, batches and settings, and the records of its steps."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import nn

from labkit.data.batch import TokenBatch
from labkit.training.config import TrainConfig
from labkit.training.forward import causal_lm_loss
from labkit.training.loop import Loss, StepRecord, train


class Trainer:
    """Holds what `loop.train` is called with, and keeps the records it yields.

    Args:
        model: MiniLLM or a transformers model; trained in place.
        batches: micro-batches; a `DataLoader` gives the same ones again when the run resumes.
        config: settings of the run.
        loss: from model and batch to (summed loss in nats, predicted tokens).
        checkpoint_dir: where the checkpoint is written and looked for; None writes none.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[TokenBatch],
        config: TrainConfig,
        *,
        loss: Loss = causal_lm_loss,
        checkpoint_dir: Path | str | None = None,
    ) -> None:
        self.model = model
        self.batches = batches
        self.config = config
        self.loss = loss
        self.checkpoint_dir = checkpoint_dir
        self.records: list[StepRecord] = []

    def steps(self, *, resume: bool = False) -> Iterator[StepRecord]:
        """Train, yielding a record a step; each is in `records` as well, from this run's start.

        Raises:
            DivergedError, ValueError: as `loop.train`.
        """
        self.records.clear()
        for record in train(
            self.model,
            self.batches,
            self.config,
            loss=self.loss,
            checkpoint_dir=self.checkpoint_dir,
            resume=resume,
        ):
            self.records.append(record)
            yield record

    def fit(self, *, resume: bool = False) -> list[StepRecord]:
        """Train to the end; the records of all steps taken."""
        return list(self.steps(resume=resume))
