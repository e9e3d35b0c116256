"""The run as an object is the run as a function, also when it resumes."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from labkit.data.batch import Example
from labkit.data.loader import DataLoader
from labkit.model.minillm import MiniLLM
from labkit.training.config import TrainConfig
from labkit.training.loop import train
from labkit.training.trainer import Trainer

CONFIG = TrainConfig(steps=5, lr=1e-2, accumulation=2, checkpoint_every=2)


@pytest.fixture
def loader(gen: torch.Generator) -> DataLoader:
    rows = [tuple(torch.randint(0, 97, (n,), generator=gen).tolist()) for n in (6, 3, 9, 4, 7)]
    return DataLoader(examples=[Example(row, row) for row in rows], batch_size=2, pad_id=0)


def test_it_trains_as_the_loop_does(tiny_model: MiniLLM, loader: DataLoader) -> None:
    other = copy.deepcopy(tiny_model)
    expected = list(train(other, iter(loader), CONFIG))
    trainer = Trainer(tiny_model, loader, CONFIG)
    records = trainer.fit()
    assert records == trainer.records
    assert [r.loss_nats for r in records] == [r.loss_nats for r in expected]
    for ours, theirs in zip(tiny_model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_run_cut_short_resumes_to_the_bit(
    tiny_model: MiniLLM, loader: DataLoader, tmp_path: Path
) -> None:
    whole = copy.deepcopy(tiny_model)
    Trainer(whole, loader, CONFIG).fit()
    trainer = Trainer(tiny_model, loader, CONFIG, checkpoint_dir=tmp_path)
    for record in trainer.steps():
        if record.step == 3:  # a step after the last checkpoint
            break
    assert [record.step for record in trainer.fit(resume=True)] == [3, 4, 5]
    for ours, theirs in zip(tiny_model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_loss_is_the_callers(tiny_model: MiniLLM, loader: DataLoader) -> None:
    def loss(model: torch.nn.Module, batch: object) -> tuple[torch.Tensor, int]:
        return sum(p.pow(2).sum() for p in model.parameters()), 1

    records = Trainer(tiny_model, loader, replace(CONFIG, steps=1), loss=loss).fit()
    assert records[0].tokens == 2
