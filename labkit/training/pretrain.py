"""Pretraining of `mini`, the course's own model: recipe, run, export.

The run is a generator of step records like any other training; when the last one was taken, the
folder holds the model (Hugging Face layout, bfloat16), its tokenizer, the thinned loss curve and a
data card written from what was measured.
"""

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from labkit.model.config import ModelConfig
from labkit.model.huggingface import load_folder, save_folder
from labkit.model.minillm import MiniLLM, initialise
from labkit.model.tokenizer import Tokenizer
from labkit.runtime.cache import cache_dir
from labkit.runtime.device import choose_device
from labkit.runtime.seeding import generator
from labkit.training import loop, pretrain_card, pretrain_data
from labkit.training.config import TrainConfig
from labkit.training.loop import StepRecord
from labkit.training.pretrain_card import RunLog
from labkit.training.pretrain_data import DataConfig, Source
from labkit.training.pretrain_rows import mixed_batches, packed

RECORDS, CORPUS = "records.jsonl", "corpus.sha256"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything that determines a pretrained model, but for the installed packages' texts.

    Attributes:
        name: Of the preset.
        model: Architecture.
        data: Mix.
        train: Optimisation.
        batch_size: Rows of ``data.length`` tokens in a micro-batch.
        tokenizer_bytes: Text a source lends to the tokenizer's training, at most.
    """

    name: str
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    batch_size: int
    tokenizer_bytes: int

    def __post_init__(self) -> None:
        """Raise ValueError with the values met and the way out."""
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1")
        if not 2 <= self.data.length <= self.model.max_length:
            raise ValueError(
                f"length={self.data.length} must lie between 2 and "
                f"max_length={self.model.max_length}"
            )


SHARES = {
    "python": 0.18,
    "numpy": 0.06,
    "scipy": 0.08,
    "torch": 0.08,
    "transformers": 0.06,
    "topics": 0.06,
    "questions": 0.26,
    "facts": 0.12,
    "arithmetic": 0.05,
    "lists": 0.05,
}


def mini() -> Recipe:
    """The committed checkpoint's recipe: 3.8 M parameters, under an hour on one CPU core."""
    return Recipe(
        name="mini",
        model=ModelConfig.mini(),
        data=DataConfig(
            length=512,
            libraries=("numpy", "scipy", "torch", "transformers"),
            num_people=60,
            num_tasks=8_000,
            shares=SHARES,
        ),
        train=TrainConfig(
            steps=2800,
            lr=2e-3,
            warmup_steps=150,
            min_lr_ratio=0.05,
            weight_decay=0.1,
            betas=(0.9, 0.98),
            dtype="bfloat16",
            checkpoint_every=200,
        ),
        batch_size=4,
        tokenizer_bytes=1_000_000,
    )


def smoke() -> Recipe:
    """The same path in seconds, for tests and for a look: a useless model."""
    return Recipe(
        name="smoke",
        model=ModelConfig(
            vocab_size=400,
            width=24,
            num_layers=2,
            num_heads=6,
            num_kv_heads=2,
            head_width=4,
            ffn_width=40,
            max_length=128,
        ),
        data=DataConfig(
            length=128,
            libraries=(),
            num_people=3,
            num_tasks=60,
            shares=dict.fromkeys(SHARES, 1.0),
            max_documents=60,
        ),
        train=TrainConfig(steps=12, lr=1e-2, warmup_steps=2, checkpoint_every=5),
        batch_size=3,
        tokenizer_bytes=20_000,
    )


PRESETS = {"mini": mini, "smoke": smoke}


def recipe(preset: str) -> Recipe:
    """A recipe by name.

    Raises:
        ValueError: If there is no such preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r} is unknown: use one of {', '.join(sorted(PRESETS))}")
    return PRESETS[preset]()


def run(
    preset: str | Recipe,
    out: Path | str,
    *,
    resume: bool = False,
    device: str = "auto",
    work_dir: Path | str | None = None,
    train: Callable[..., Iterator[StepRecord]] = loop.train,
) -> Iterator[StepRecord]:
    """Pretrain a model, yielding a record a step; write ``out`` after the last one.

    Args:
        preset: Name of a recipe, or one of your own.
        out: Folder for model, tokenizer, ``curve.jsonl``, ``card.json`` and ``README.md``.
        resume: Continue from the work folder's checkpoint, bit for bit.
        device: "auto", "cpu" or "cuda".
        work_dir: Checkpoints and all records; default: a folder of the preset in the cache.
        train: `loop.train`, or the same over several processes.

    Yields:
        Step records; before the first, reading the corpus takes up to some minutes.

    Raises:
        ValueError: If the preset is unknown, or the corpus is not the one the checkpoint saw.
    """
    plan = recipe(preset) if isinstance(preset, str) else preset
    work = Path(work_dir) if work_dir is not None else cache_dir() / f"pretrain-{plan.name}"
    work.mkdir(parents=True, exist_ok=True)
    if not resume:
        _forget(work)
    corpus = pretrain_data.sources(plan.data)
    tokenizer = pretrain_data.train_tokenizer(
        corpus, vocab_size=plan.model.vocab_size, max_bytes=plan.tokenizer_bytes
    )
    _require_same(work / CORPUS, corpus, tokenizer)
    model = MiniLLM(plan.model)
    initialise(model, generator(plan.train.seed))
    model.to(choose_device(device))
    log = RunLog(work / RECORDS)
    length = plan.data.length
    train_rows = {source.name: packed(source.train, tokenizer, length) for source in corpus}
    batches = mixed_batches(
        list(train_rows.values()),
        [source.share for source in corpus],
        batch_size=plan.batch_size,
        rng=np.random.default_rng(plan.data.seed),
    )
    records = train(model, batches, plan.train, checkpoint_dir=work, resume=resume)
    yield from log.recorded(records)
    out = Path(out)
    held_out = _export(model, tokenizer, corpus, length, out)
    log.write_curve(out / "curve.jsonl")
    pretrain_card.write(out, plan.name, asdict(plan), corpus, train_rows, log, held_out)


def _export(
    model: MiniLLM, tokenizer: Tokenizer, corpus: Sequence[Source], length: int, out: Path
) -> dict[str, dict[str, float]]:
    """Write the model, then measure it as its users will load it: the held-out loss by source."""
    save_folder(copy.deepcopy(model).cpu().to(torch.bfloat16), tokenizer, out)
    exported, _ = load_folder(out, dtype="float32", device="cpu")
    return {
        source.name: pretrain_card.held_out_loss(
            exported, packed(source.held_out, tokenizer, length)
        )
        for source in corpus
    }


def _forget(work: Path) -> None:
    for name in (loop.CHECKPOINT_NAME, RECORDS, CORPUS):
        (work / name).unlink(missing_ok=True)


def _require_same(path: Path, corpus: Sequence[Source], tokenizer: Tokenizer) -> None:
    """A resumed run must read what the first part read: the installed packages decide that."""
    vocabulary = hashlib.sha256(tokenizer.backend.to_str().encode()).hexdigest()
    digest = f"{pretrain_data.corpus_hash(corpus)} {vocabulary}"
    if not path.exists():
        path.write_text(digest)
    elif (stored := path.read_text()) != digest:
        raise ValueError(
            f"the corpus or its tokenizer has changed since the checkpoint ({stored} then, "
            f"{digest} now): install the packages of that run, or start anew without resume"
        )
