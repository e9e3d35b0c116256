"""Every tuning method on one task: held-out loss over learning rates and seeds, bytes, seconds.

SmolLM2 learns to answer questions about Python's functions as their documentation does. Each
method gets the same steps on the same examples. Its learning rate is chosen on a validation set:
three to begin with, then on until the best is not the outermost. At that rate more seeds follow,
and what is recorded is the loss on a test set. Both sets hold functions that no step saw.

Parameters and bytes are counted; bytes are those of living tensors at the peak of a step (weights,
gradients, optimizer, activations), the same on every machine. Steps are timed interleaved.

What is on record is not repeated. Times want an idle machine, losses and bytes do not:
python -m benchmarks.peft_methods [losses] [times]
"""

import copy
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from labkit.data import batch, pydoc_corpus
from labkit.data.batch import Example, TokenBatch, collate
from labkit.data.chat import encode_chat
from labkit.data.questions import question_answers
from labkit.model import zoo
from labkit.model.zoo import Loaded
from labkit.runtime.records import Record, append_record, load_records
from labkit.runtime.seeding import generator
from labkit.runtime.timing import interleave
from labkit.training.config import TrainConfig
from labkit.training.efficiency.measured_memory import AllocationTracker
from labkit.training.forward import causal_lm_loss
from labkit.training.loop import DivergedError
from labkit.training.tune import tune
from labkit.tuning.methods import METHODS

FILE = Path(__file__).parents[1] / "datasets" / "peft_methods" / "records.jsonl"
COMMAND = "python -m benchmarks.peft_methods"
MODEL, LONGEST = "smollm2-135m", 64
STEPS, ROWS, WARMUP = 24, 8, 3
VALIDATION, TEST = 32, 64
SEEDS, FACTOR, MOST_RATES = (0, 1, 2), 3.0, 6
FIRST_RATES = {
    "full": 1e-4,
    "bitfit": 1e-2,
    "prompt": 3e-2,
    "p-tuning": 3e-3,
    "prefix": 3e-3,
    "p-tuning-v2": 3e-2,
    "houlsby": 2e-3,
    "pfeiffer": 2e-3,
    "parallel": 2e-3,
    "ia3": 3e-2,
    "lora": 2e-3,
    "rslora": 2e-3,
    "dora": 2e-3,
    "adalora": 5e-3,
    "qlora": 2e-3,
    "loftq": 1e-3,
    "mam": 3e-3,
    "unipelt": 3e-3,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """The examples to learn from, and two sets of others."""

    training: list[Example]
    validation: list[TokenBatch]
    test: list[TokenBatch]

    @classmethod
    def of(cls, loaded: Loaded) -> "Task":
        """Questions and answers of at most `LONGEST` tokens, split by function."""

        def encoded(functions: list[pydoc_corpus.FunctionDoc], most: int) -> list[Example]:
            chats = question_answers(functions)
            found = (encode_chat(loaded.tokenizer, chat) for chat in chats)
            short = (example for example in found if len(example.ids) <= LONGEST)
            return [example for example, _ in zip(short, range(most), strict=False)]

        training, others = pydoc_corpus.split(pydoc_corpus.functions())
        held_out = encoded(others, VALIDATION + TEST)
        groups = [collate(held_out[i : i + ROWS], 0) for i in range(0, len(held_out), ROWS)]
        return cls(
            training=encoded(training, 2 * STEPS * ROWS),
            validation=groups[: VALIDATION // ROWS],
            test=groups[VALIDATION // ROWS :],
        )

    def rows(self, seed: int) -> Iterator[TokenBatch]:
        """Endless shuffled batches."""
        return batch.batches(self.training, batch_size=ROWS, pad_id=0, generator=generator(seed))


def config(method: str, lr: float, seed: int = 0) -> TrainConfig:
    """Products in bfloat16: by autocast where float32 weights train, else by the weights."""
    products = "bfloat16" if method == "full" else "float32"
    return TrainConfig(steps=STEPS, lr=lr, warmup_steps=WARMUP, seed=seed, dtype=products)


def base(loaded: Loaded, method: str) -> nn.Module:
    """A copy to tune; all weights train in float32, under an adapter they stay in bfloat16."""
    model = copy.deepcopy(loaded.model).train()
    return model.float() if method == "full" else model


@torch.no_grad()
def nats(model: nn.Module, rows: list[TokenBatch]) -> float:
    """Mean loss a token of the answers."""
    model.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums = [causal_lm_loss(model, batch) for batch in rows]
    return float(sum(loss for loss, _ in sums)) / sum(count for _, count in sums)


def quality(loaded: Loaded, task: Task, method: str, lr: float, seed: int) -> None:
    """Tune once and record the losses; a run that diverged keeps its last finite weights."""
    model, diverged = base(loaded, method), False
    try:
        for _ in tune(model, method, task.rows(seed), config(method, lr, seed)):
            pass
    except DivergedError:
        diverged = True
    validation, test = nats(model, task.validation), nats(model, task.test)
    more = {"lr": lr, "seed": seed, "validation": validation, "diverged": diverged}
    write("peft_quality", test, "nats/token", method, **more)
    print(f"{method}: {test:.3f} nats, {more}", flush=True)


def write(metric: str, value: float, unit: str, method: str, **more: Any) -> None:
    """Record one value of a method."""
    extra = {"method": method, "model": MODEL, "steps": STEPS, "rows": ROWS, **more}
    seeds = (extra["seed"],) if "seed" in extra else ()
    append_record(
        FILE,
        Record(metric=metric, value=value, unit=unit, seeds=seeds, command=COMMAND, extra=extra),
    )


def on_record(metric: str, method: str) -> list[dict[str, Any]]:
    """What is known of a method already."""
    records = load_records(FILE) if FILE.exists() else []
    return [
        {"value": record.value, **record.extra}
        for record in records
        if (record.metric, record.extra["method"]) == (metric, method)
    ]


def next_run(known: list[dict[str, Any]], first: float) -> tuple[float, int] | None:
    """The rate and seed to try: rates around the best until it is an inner one, then seeds."""
    losses = {row["lr"]: row["validation"] for row in known if row["seed"] == SEEDS[0]}
    for power in (0, -1, 1):
        if first * FACTOR**power not in losses:
            return first * FACTOR**power, SEEDS[0]
    rates = sorted(losses)
    best = min(rates, key=lambda rate: losses[rate])
    if best in (rates[0], rates[-1]) and len(rates) < MOST_RATES:
        return (best / FACTOR if best == rates[0] else best * FACTOR), SEEDS[0]
    tried = {row["seed"] for row in known if row["lr"] == best}
    left = [seed for seed in SEEDS if seed not in tried]
    return (best, left[0]) if left else None


def peak_bytes(loaded: Loaded, task: Task, method: str) -> tuple[int, int]:
    """Trained parameters, and bytes of living tensors at the peak of the second step."""
    model = base(loaded, method)
    with AllocationTracker() as tracker:
        tracker.watch([*model.parameters(), *model.buffers()])
        steps = tune(model, method, task.rows(0), config(method, 1e-4))
        tracker.watch([*model.parameters(), *model.buffers()])
        next(steps)
        tracker.reset_peak()
        next(steps)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trained, tracker.peak_bytes


def steppers(loaded: Loaded, task: Task) -> dict[str, Callable[[], object]]:
    """A function for each method that takes its next step."""
    made: dict[str, Callable[[], object]] = {}
    for method in METHODS:
        steps = tune(base(loaded, method), method, task.rows(0), config(method, 1e-4))
        made[method] = steps.__next__
    return made


def measure_times(loaded: Loaded, task: Task) -> None:
    """Record each method's median step, and how many times LoRA's it takes."""
    if on_record("peft_step", "lora"):
        return
    timings = interleave(steppers(loaded, task), STEPS // 2, warmup=2)
    for method, timing in timings.items():
        pairs = zip(timing.samples_s, timings["lora"].samples_s, strict=True)
        ratio = statistics.median(mine / theirs for mine, theirs in pairs)
        write("peft_step", timing.median_s, "s", method, times_lora=round(ratio, 3))


def compare(loaded: Loaded, task: Task) -> None:
    """Record losses and bytes of every method."""
    if not on_record("peft_quality", "none"):
        write("peft_quality", nats(loaded.model, task.test), "nats/token", "none")
    for method in METHODS:
        while (run := next_run(on_record("peft_quality", method), FIRST_RATES[method])) is not None:
            quality(loaded, task, method, *run)
        if not on_record("peft_memory", method):
            trained, held = peak_bytes(loaded, task, method)
            write("peft_memory", held / 2**20, "MiB", method, trained=trained)


def main(parts: list[str]) -> None:
    """Do the parts named, by default both."""
    loaded = zoo.load(MODEL, dtype="bfloat16", device="cpu")
    task = Task.of(loaded)
    if "losses" in parts or not parts:
        compare(loaded, task)
    if "times" in parts or not parts:
        measure_times(loaded, task)


if __name__ == "__main__":
    main(sys.argv[1:])
