"""Training under a tuning method chosen by name, with what the method adds to a step."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from labkit.data.batch import TokenBatch
from labkit.training.config import TrainConfig
from labkit.training.forward import causal_lm_loss
from labkit.training.loop import Loss, StepRecord, train
from labkit.tuning.methods import METHODS, Method


def method(name: str) -> Method:
    """The method of that name.

    Raises:
        ValueError: There is none; the message lists those there are.
    """
    if name not in METHODS:
        raise ValueError(f"method={name!r} is unknown: use one of {', '.join(METHODS)}")
    return METHODS[name]


def tune(
    model: nn.Module,
    name: str,
    batches: Iterable[TokenBatch],
    config: TrainConfig,
    *,
    settings: Any = None,
    loss: Loss = causal_lm_loss,
    checkpoint_dir: Path | str | None = None,
    resume: bool = False,
) -> Iterator[StepRecord]:
    """Put a method on a model and train what it leaves trainable.

    Starting values are drawn from the run's seed. The loss of a record holds the penalty too.

    Args:
        model: Changed in place.
        name: One of `METHODS`.
        batches, loss, checkpoint_dir, resume: As for `train`.
        config: Settings of the run.
        settings: The method's options, where they shall not be the usual ones.

    Yields:
        As `train`.

    Raises:
        ValueError: There is no such method, or as `train`.
    """
    chosen = method(name)
    settings = chosen.settings(config.steps) if settings is None else settings
    chosen.put(model, settings, torch.Generator().manual_seed(config.seed))
    return train(
        model,
        batches,
        config,
        loss=penalised(loss, chosen, settings),
        after_step=chosen.allocator and chosen.allocator(model, settings),
        checkpoint_dir=checkpoint_dir,
        resume=resume,
    )


def penalised(loss: Loss, chosen: Method, settings: Any) -> Loss:
    """A loss with the method's penalty for each predicted token."""
    penalty = chosen.penalty
    if penalty is None:
        return loss

    def summed(model: nn.Module, batch: TokenBatch) -> tuple[Tensor, int]:
        nats, tokens = loss(model, batch)
        return nats + tokens * penalty(model, settings), tokens

    return summed
