"""What a run and its continuation agree on: settings, batches, and when state is written."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from labkit.data.batch import TokenBatch
from labkit.training.config import TrainConfig


def checkpoint_due(step: int, config: TrainConfig) -> bool:
    """After the last step, and after every `checkpoint_every`-th where that is not 0."""
    every = config.checkpoint_every
    return step == config.steps or bool(every and step % every == 0)


def require_same_config(path: Path, stored: Mapping[str, object], config: TrainConfig) -> None:
    """A continuation may choose anew when to write checkpoints, nothing else.

    Raises:
        ValueError: a setting differs; says which.
    """
    ours = asdict(config) | {"betas": list(config.betas)}
    changed = {k: (stored.get(k), v) for k, v in ours.items() if stored.get(k) != v}
    if names := sorted(changed.keys() - {"checkpoint_every"}):
        told = ", ".join(f"{n}={changed[n][0]} there and {changed[n][1]} here" for n in names)
        raise ValueError(f"{path} is of another run: {told}")


def pass_over(source: Iterator[TokenBatch], done: int, config: TrainConfig) -> None:
    """Draws the batches of the steps that are done.

    Raises:
        ValueError: there are fewer.
    """
    skipped = sum(1 for _ in islice(source, done * config.accumulation))
    if skipped < done * config.accumulation:
        raise ValueError(f"the run to resume took {done} steps, but only {skipped} batches came")


def draw(source: Iterator[TokenBatch], step: int, config: TrainConfig) -> list[TokenBatch]:
    """The micro-batches of one step.

    Raises:
        ValueError: there are fewer.
    """
    micro_batches = list(islice(source, config.accumulation))
    if len(micro_batches) < config.accumulation:
        raise ValueError(f"batches ran out in step {step} of steps={config.steps}")
    return micro_batches
