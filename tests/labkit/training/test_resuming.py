"""What a run and its continuation agree on."""

import dataclasses
from pathlib import Path

import pytest
import torch

from labkit.data.batch import TokenBatch
from labkit.training import resuming
from labkit.training.config import TrainConfig

CONFIG = TrainConfig(steps=5, lr=0.1, accumulation=2, checkpoint_every=2)
IDS = torch.arange(6).view(1, 6)
ROWS = TokenBatch(ids=IDS, labels=IDS)


def test_checkpoints_are_due_at_intervals_and_at_the_end() -> None:
    assert [step for step in range(1, 6) if resuming.checkpoint_due(step, CONFIG)] == [2, 4, 5]
    last_only = dataclasses.replace(CONFIG, checkpoint_every=0)
    assert [step for step in range(1, 6) if resuming.checkpoint_due(step, last_only)] == [5]


def test_batches_of_done_steps_are_passed_over() -> None:
    source = iter([dataclasses.replace(ROWS, ids=IDS + i) for i in range(7)])
    resuming.pass_over(source, 2, CONFIG)
    drawn = resuming.draw(source, 3, CONFIG)
    assert [int(rows.ids[0, 0]) for rows in drawn] == [4, 5]
    with pytest.raises(ValueError, match="ran out in step 4 of steps=5"):
        resuming.draw(source, 4, CONFIG)
    with pytest.raises(ValueError, match="took 3 steps, but only 1 batches came"):
        resuming.pass_over(iter([ROWS]), 3, CONFIG)


def test_only_the_interval_of_checkpoints_may_change() -> None:
    stored = dataclasses.asdict(CONFIG) | {"betas": list(CONFIG.betas)}
    changed = dataclasses.replace(CONFIG, checkpoint_every=1)
    resuming.require_same_config(Path("run"), stored, changed)
    other = dataclasses.replace(CONFIG, steps=6)
    with pytest.raises(ValueError, match="run is of another run: steps=5 there and 6 here"):
        resuming.require_same_config(Path("run"), stored, other)
