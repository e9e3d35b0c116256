"""The run at the end of lab 03: what is trained on what, the same for learners and the envelope.

`python -m grader.labs.lab03_lora.recipe` repeats it with labkit's own LoRA for several seeds and
writes `solutions/lab03_lora/envelope.json`, the normal results that a learner's curve is drawn
over.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grader.labs import envelope
from labkit.data.batch import batches
from labkit.data.chat import encode_chat
from labkit.data.pydoc_corpus import functions, split
from labkit.data.questions import question_answers
from labkit.model import zoo
from labkit.runtime.seeding import generator

STEPS = 20
ENVELOPE_SEEDS = (1, 2, 3, 4, 5)
MicroBatches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Settings of the run; every learner's and every envelope's run has the same."""

    targets: tuple[str, ...] = ("q_proj", "v_proj")
    rank: int = 8
    alpha: float = 16.0
    lr: float = 2e-3
    clip_norm: float = 1.0
    micro_batches: int = 2
    micro_batch_size: int = 3
    longest: int = 64


def micro_batches(recipe: Recipe, tokenizer: Any, seed: int) -> Iterator[MicroBatches]:
    """Endless steps of questions about Python functions, loss on the answers only."""
    training, _ = split(functions())
    examples = [
        encode_chat(tokenizer, chat).truncated(recipe.longest)
        for chat in question_answers(training)
    ]
    examples = [example for example in examples if example.labels[-1] != -100]
    stream = batches(
        examples,
        batch_size=recipe.micro_batch_size,
        pad_id=tokenizer.pad_id,
        generator=generator(seed),
    )
    while True:
        yield [(batch.ids, batch.labels) for batch in islice(stream, recipe.micro_batches)]


def losses(
    model: nn.Module,
    steps: Iterator[MicroBatches],
    train_step: Callable[..., float],
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
) -> Iterator[float]:
    """Train with a step function and yield its loss in nats, step by step."""
    for step in steps:
        yield train_step(model, step, optimizer, recipe.clip_norm)


def normal_run(recipe: Recipe, seed: int, steps: int) -> list[float]:
    """The run with labkit's own LoRA."""
    from grader.labs.lab03_lora import reference

    loaded = zoo.load("smollm2-135m", dtype="float32")
    make = partial(
        reference.LoraLinear, rank=recipe.rank, alpha=recipe.alpha, generator=generator(seed)
    )
    reference.apply_lora(loaded.model, make, recipe.targets)
    trained = [p for p in loaded.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.lr)
    data = islice(micro_batches(recipe, loaded.tokenizer, seed), steps)
    return list(losses(loaded.model, data, reference.train_step, optimizer, recipe))


def main(path: Path) -> None:
    """Write the envelope: one row of losses a seed, with where and how it was made."""
    recipe = Recipe()
    rows = []
    for seed in ENVELOPE_SEEDS:
        rows.append([round(loss, 4) for loss in normal_run(recipe, seed, STEPS)])
        sys.stderr.write(f"seed {seed}: {rows[-1][0]} -> {rows[-1][-1]}\n")
    results = {
        "metric": "loss a predicted token",
        "unit": "nats",
        "runs": rows,
        "seeds": ENVELOPE_SEEDS,
    }
    envelope.write(path, "lab03_lora", results)


if __name__ == "__main__":
    main(Path("solutions/lab03_lora/envelope.json"))
