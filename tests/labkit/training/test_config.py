"""Contradictions are refused with the values met."""

import pytest
import torch

from labkit.data.batch import TokenBatch
from labkit.training.config import TrainConfig
from labkit.training.loop import train


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"steps": -3}, "steps=-3"),
        ({"lr": 0.0}, r"lr=0\.0"),
        ({"lr": -1e-3}, r"lr=-0\.001"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr": float("inf")}, "lr=inf"),
        ({"warmup_steps": 11}, "warmup_steps=11 must lie between 0 and steps=10"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"min_lr_ratio": 1.1}, r"min_lr_ratio=1\.1"),
        ({"weight_decay": -0.1}, r"weight_decay=-0\.1"),
        ({"betas": (0.9, 1.0)}, r"betas=\(0\.9, 1\.0\)"),
        ({"clip_norm": 0.0}, r"clip_norm=0\.0"),
        ({"accumulation": 0}, "accumulation=0"),
        ({"dtype": "float16"}, "dtype='float16'"),
        ({"checkpoint_every": -1}, "checkpoint_every=-1"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**({"steps": 10, "lr": 1e-3} | change))


@pytest.mark.parametrize(
    ("change", "rates"),
    [
        ({"steps": 1}, [1e-3]),
        ({"warmup_steps": 4}, [0.0, 2.5e-4, 5e-4, 7.5e-4]),
        ({"min_lr_ratio": 1.0}, [1e-3] * 4),
        ({"min_lr_ratio": 0.0, "steps": 2}, [1e-3, 5e-4]),
    ],
)
def test_accepts_the_edges_and_trains_by_them(tiny_model, gen, change, rates):
    config = TrainConfig(**({"steps": 4, "lr": 1e-3, "clip_norm": None} | change))
    ids = torch.randint(97, (1, 5), generator=gen)
    batches = [TokenBatch(ids=ids, labels=ids)] * config.steps
    records = list(train(tiny_model, batches, config))
    assert [record.lr for record in records] == pytest.approx(rates)
