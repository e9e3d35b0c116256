"""Distributed training against the one-process loop: losses, weights, checkpoints."""

import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from labkit.data.batch import IGNORE_INDEX, TokenBatch
from labkit.runtime.seeding import generator
from labkit.training import loop
from labkit.training.config import TrainConfig
from labkit.training.parallel import distributed, strategies
from labkit.tuning import lora
from tests.labkit.training.parallel import tiny

SIZES = {"width": 25, "ffn_width": 42, "vocab_size": 97}  # most are odd: shards are padded
BY_HAND = ("ddp", "zero1", "zero2", "zero3", "tp", "pp")
DEEPSPEED = [
    pytest.param(
        f"deepspeed-zero{stage}",
        marks=pytest.mark.skipif(not find_spec("deepspeed"), reason="needs extra distributed"),
    )
    for stage in (1, 2, 3)
]
ALL = [*BY_HAND, "torch-ddp", "fsdp2", *DEEPSPEED]
RESUMED = [*ALL[:8], *DEEPSPEED[1:]]
ROWS_SHARED = ["ddp", "zero1", "zero2", "zero3", "torch-ddp", "fsdp2", DEEPSPEED[2]]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[4]), *sys.path])


def config(**changes) -> TrainConfig:
    settings = {
        "steps": 4, "lr": 0.01, "warmup_steps": 1, "weight_decay": 0.3, "clip_norm": 0.7,
        "accumulation": 2, "checkpoint_every": 2,
    }  # fmt: skip
    return TrainConfig(**(settings | changes))


def batches(count: int = 8):
    """Packed rows, ragged labels, and three rows for two ranks."""
    for step in range(count):
        ids = tiny.batch(step, rows=3)
        labels = ids.clone()
        labels[0, : 2 + step] = IGNORE_INDEX
        documents = torch.zeros_like(ids)
        documents[:, 4:] = 1
        positions = torch.arange(10) - 4 * documents
        yield TokenBatch(ids=ids, labels=labels, document_ids=documents, positions=positions)


def tuned():
    model = tiny.tiny_model(**SIZES)
    return lora.apply(model, lora.LoraConfig(rank=3, alpha=6.0), generator=generator(5))


def run(model, strategy, nproc=2, **options):
    settings = options.pop("config", config())
    if strategy == "none":
        return list(loop.train(model, batches(), settings, **options))
    records = distributed.train(
        model, batches(), settings, strategy=strategy, nproc=nproc, deadline_s=20.0, **options
    )
    return list(records)


def assert_same_run(ours, theirs, our_model, their_model):
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.step, mine.tokens, mine.lr) == (other.step, other.tokens, other.lr)
        assert mine.loss_nats == pytest.approx(other.loss_nats, rel=1e-5)
        assert mine.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)
    for name, value in tiny.values(their_model).items():
        torch.testing.assert_close(tiny.values(our_model)[name], value, rtol=1e-4, atol=2e-5)


@pytest.fixture(scope="module")
def one_process():
    model = tiny.tiny_model(**SIZES)
    return run(model, "none"), model


@pytest.mark.parametrize("strategy", ALL)
def test_two_processes_equal_one(strategy: str, one_process, tmp_path: Path) -> None:
    model = tiny.tiny_model(**SIZES)
    records = run(model, strategy, checkpoint_dir=tmp_path)
    assert records[0].grad_norm > 0.7  # clipping is at work
    assert_same_run(records, one_process[0], model, one_process[1])


@pytest.mark.parametrize("strategy", RESUMED)
def test_a_killed_run_goes_on_to_the_bit(strategy: str, one_process, tmp_path: Path) -> None:
    whole = tiny.tiny_model(**SIZES)
    run(whole, strategy, checkpoint_dir=tmp_path / "whole")
    records = distributed.train(
        tiny.tiny_model(**SIZES), batches(), config(), strategy=strategy, nproc=2,
        checkpoint_dir=tmp_path / "killed", deadline_s=20.0,
    )  # fmt: skip
    assert [next(records).step, next(records).step, next(records).step] == [1, 2, 3]
    records.close()  # the ranks are killed; the checkpoint is that of step 2
    resumed = tiny.tiny_model(**SIZES)
    later = run(resumed, strategy, checkpoint_dir=tmp_path / "killed", resume=True)
    assert [record.step for record in later] == [3, 4]
    for name, value in tiny.values(whole).items():
        assert torch.equal(tiny.values(resumed)[name], value), name
    assert_same_run(later, one_process[0][2:], resumed, one_process[1])


CHAIN = [("zero3", 2), ("tp", 2), ("fsdp2", 3), ("none", 1), ("pp", 3), ("zero2", 3), ("ddp", 1)]


def test_any_strategy_and_world_size_goes_on_with_anothers_checkpoint(tmp_path: Path) -> None:
    expected = tiny.tiny_model(**SIZES)
    records = run(expected, "none", config=config(steps=4, checkpoint_every=1))
    for first, second in pairwise(CHAIN):
        folder = tmp_path / f"{first[0]}-{second[0]}"
        settings = config(steps=4, checkpoint_every=1)
        begun = start(first, settings, folder)
        [*_] = [next(begun) for _ in range(2)]
        begun.close()
        model = tiny.tiny_model(**SIZES)
        later = run(model, *second, config=settings, checkpoint_dir=folder, resume=True)
        assert_same_run(later, records[2:], model, expected)


def start(choice, settings, folder):
    model = tiny.tiny_model(**SIZES)
    if choice[0] == "none":
        return loop.train(model, batches(), settings, checkpoint_dir=folder)
    return distributed.train(
        model, batches(), settings, strategy=choice[0], nproc=choice[1], checkpoint_dir=folder,
        deadline_s=20.0,
    )  # fmt: skip


@pytest.mark.parametrize("strategy", ROWS_SHARED)
def test_adapters_on_a_frozen_model(strategy: str) -> None:
    theirs, ours = tuned(), tuned()
    expected = run(theirs, "none")
    assert_same_run(run(ours, strategy), expected, ours, theirs)
    base = tiny.values(tiny.tiny_model(**SIZES))["model.embed_tokens.weight"]
    assert torch.equal(tiny.values(ours)["model.embed_tokens.weight"], base)


@pytest.mark.parametrize(
    ("strategy", "nproc", "message"),
    [
        ("zero4", 2, "strategy 'zero4' is unknown: use one of ddp, zero1"),
        ("ddp", 0, "nproc=0 must be at least 1"),
        ("tp", 4, "tensor=4 must divide num_heads=6"),
        ("pp", 4, "pipeline=4 exceeds num_layers=3"),
    ],
)
def test_contradictions_are_said_before_anything_starts(strategy, nproc, message) -> None:
    with pytest.raises(ValueError, match=message):
        run(tiny.tiny_model(**SIZES), strategy, nproc)


def test_adapters_are_not_split_by_model_parallelism() -> None:
    for strategy in strategies.MODEL_PARALLEL:
        with pytest.raises(ValueError, match="trained whole"):
            run(tuned(), strategy)


def test_settings_of_another_run_and_a_diverging_one(tmp_path: Path) -> None:
    run(tiny.tiny_model(**SIZES), "zero1", checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="of another run: lr="):
        run(
            tiny.tiny_model(**SIZES), "zero1", config=config(lr=0.5), checkpoint_dir=tmp_path,
            resume=True,
        )  # fmt: skip
    with pytest.raises(loop.DivergedError, match="lower lr"):
        run(tiny.tiny_model(**SIZES), "zero2", config=config(lr=1e30, clip_norm=None))
