"""The training loop over several processes: `loop.train` with a strategy and a number of ranks.

This process draws the batches, keeps the time and yields the records; the ranks hold the model.
What a step does on a rank is its engine's affair. Checkpoints are those of `loop.train`: whole
tensors by name, so that a run stopped under one strategy and number of ranks goes on under any
other, one process included.
"""

import math
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from labkit.data.batch import TokenBatch
from labkit.training import checkpoint, loop, resuming
from labkit.training.config import TrainConfig
from labkit.training.forward import causal_lm_loss
from labkit.training.loop import DivergedError, Loss, StepRecord, learning_rate
from labkit.training.parallel import launch, strategies
from labkit.training.parallel.collectives import Group
from labkit.training.parallel.engine import Engine, predicted_tokens
from labkit.training.parallel.launch import RankError, Ranks


def train(
    model: nn.Module,
    batches: Iterable[TokenBatch],
    config: TrainConfig,
    *,
    strategy: str,
    nproc: int,
    loss: Loss = causal_lm_loss,
    checkpoint_dir: Path | str | None = None,
    resume: bool = False,
    deadline_s: float = 600.0,
) -> Iterator[StepRecord]:
    """As `loop.train`, spread over `nproc` processes with one thread each.

    Batches are those of one process: each is shared out, not repeated. Losses and weights are
    `loop.train`'s up to rounding; the same ranks resume bit for bit. Dropout draws other masks.

    Args:
        model: on the CPU; it travels to the ranks, and their weights come back after the last
            record.
        batches: as `loop.train`.
        config: settings.
        strategy: one of `strategies.STRATEGIES`.
        nproc: ranks.
        loss: importable by name, next-token like `causal_lm_loss`.
        checkpoint_dir: where the checkpoint is written and looked for.
        resume: continue from it, whatever strategy and number of ranks wrote it.
        deadline_s: the longest that a step may take.

    Yields:
        One record for each step, after its checkpoint (if one is due) is on disk.

    Raises:
        DivergedError, ValueError: as `loop.train`; and where strategy and model contradict.
        RankError: a rank died, or missed the deadline.
    """
    if resume and checkpoint_dir is None:
        raise ValueError("resume=True needs checkpoint_dir, the folder of the checkpoint")
    strategies.check(strategy, nproc, model)
    path = None if checkpoint_dir is None else Path(checkpoint_dir) / loop.CHECKPOINT_NAME
    done = _steps_done(path, config) if resume else 0
    source = iter(batches)
    resuming.pass_over(source, done, config)
    with (
        tempfile.TemporaryDirectory() as folder,
        Ranks(nproc, Path(folder), deadline_s=deadline_s) as ranks,
    ):
        _call(ranks, _begin, model, config, loss, strategy, path if done else None)
        for step in range(done + 1, config.steps + 1):
            started = time.perf_counter()
            micro_batches = resuming.draw(source, step, config)
            yield _record(ranks, step, micro_batches, config, path, started)
        checkpoint.restore_weights(model, _call(ranks, _trained))


def _steps_done(path: Path | None, config: TrainConfig) -> int:
    if path is None or not path.exists():
        return 0
    stored = checkpoint.load(path)
    resuming.require_same_config(path, stored.metadata["config"], config)
    if "generator" in stored.tensors:
        raise ValueError(f"{path} holds a generator's state, which only one process can resume")
    return int(stored.metadata["step"])


def _record(
    ranks: Ranks,
    step: int,
    batches: Sequence[TokenBatch],
    config: TrainConfig,
    path: Path | None,
    started: float,
) -> StepRecord:
    tokens = predicted_tokens(batches)
    if tokens == 0:
        raise ValueError(f"step {step} has no token to predict: all labels are ignored")
    lr = learning_rate(step, config)
    loss_sum, norm = _call(ranks, _step, step, batches, tokens, lr)
    if path is not None and resuming.checkpoint_due(step, config):
        _call(ranks, _save, path, step)
    return StepRecord(
        step=step,
        loss_nats=loss_sum / tokens,
        tokens=tokens,
        grad_norm=norm,
        lr=lr,
        seconds=time.perf_counter() - started,
    )


def _call(ranks: Ranks, function: Any, *arguments: Any) -> Any:
    """Rank 0's result; a ValueError of a rank is raised as itself."""
    try:
        return ranks.run(function, *arguments)[0]
    except RankError as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise


# What follows runs on the ranks.


def _begin(
    model: nn.Module, config: TrainConfig, loss: Loss, strategy: str, path: Path | None
) -> None:
    tensors = {} if path is None else checkpoint.load(path).tensors
    if tensors:
        checkpoint.restore_weights(model, tensors)
    engine = strategies.build(strategy, model, config, loss, Group.world())
    if tensors:
        engine.restore(tensors)
    launch.held["engine"] = engine


def _step(step: int, batches: Sequence[TokenBatch], tokens: int, lr: float) -> tuple[float, float]:
    engine: Engine = launch.held["engine"]
    engine.model.train()
    torch.manual_seed(engine.config.seed * 1_000_003 + step + 7_919 * engine.rows.index)
    loss_sum = engine.accumulate(batches, tokens)
    if not math.isfinite(loss_sum):
        raise DivergedError(f"step {step}: loss is {loss_sum / tokens} at lr={lr:g}")
    return loss_sum, engine.update(lr)


def _save(path: Path, step: int) -> None:
    engine: Engine = launch.held["engine"]
    tensors = engine.state()
    if engine.group.rank == 0:
        checkpoint.save(path, tensors, {"step": step, "config": asdict(engine.config)})


def _trained() -> dict[str, Tensor]:
    engine: Engine = launch.held["engine"]
    tensors = engine.state()
    if engine.group.rank:
        return {}
    return {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}
