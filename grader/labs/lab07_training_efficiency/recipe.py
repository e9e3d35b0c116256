"""The run at the end of lab 07: one LoRA step of SmolLM2, and the memory that it takes.

`python -m grader.labs.lab07_training_efficiency.recipe` measures it with labkit's checkpointing and
chunked loss on several texts and writes `solutions/lab07_training_efficiency/envelope.json`, the
normal results that a learner's curve is drawn over. Bytes are counted in tensors, so that they are
the same on every machine; they differ between texts, which are as long as they are.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from grader.labs import envelope
from labkit.data import pydoc_corpus
from labkit.data.batch import IGNORE_INDEX
from labkit.model import zoo
from labkit.model.minillm import MiniLLM
from labkit.objectives.language_modelling import cross_entropy, shift_labels
from labkit.runtime.seeding import generator
from labkit.training.efficiency.measured_memory import AllocationTracker
from labkit.tuning import lora

ENVELOPE_SEEDS = (1, 2, 3, 4, 5, 6)
Checkpoint = Callable[..., Tensor]
ChunkedLoss = Callable[[Tensor, Tensor, Tensor, int], Tensor]
Loss = Callable[[MiniLLM, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Settings of the run; every learner's and every envelope's run has the same.

    Attributes:
        model: Whose step it is.
        limits: Tokens at which texts are cut.
        batch: Texts of a step.
        rank: Of the adapters on all linear layers of the blocks.
        chunk_rows: Positions whose logits exist at a time.
    """

    model: str = "smollm2-135m"
    limits: tuple[int, ...] = (16, 32, 64, 128)
    batch: int = 2
    rank: int = 8
    chunk_rows: int = 16


MINI = Recipe(model="mini")


def adapted(recipe: Recipe) -> zoo.Loaded:
    """The model in float32, frozen, with LoRA adapters that train."""
    loaded = zoo.load(recipe.model, dtype="float32", device="cpu")
    config = lora.LoraConfig(rank=recipe.rank, alpha=recipe.rank, target_modules="all-linear")
    lora.apply(loaded.model, config, generator=generator(0))
    return loaded


def texts(recipe: Recipe, tokenizer: Any, limit: int, seed: int) -> tuple[Tensor, Tensor]:
    """Documentation of some functions, cut at a limit: ids and labels, padded to the longest."""
    functions = pydoc_corpus.functions()
    drawn = torch.randint(len(functions), (recipe.batch,), generator=generator(seed)).tolist()
    documents = pydoc_corpus.as_text([functions[i] for i in drawn])
    rows = [torch.tensor(tokenizer.encode(text)[:limit]) for text in documents]
    return (
        pad_sequence(rows, batch_first=True),
        pad_sequence(rows, batch_first=True, padding_value=IGNORE_INDEX),
    )


def plain_loss(model: MiniLLM, ids: Tensor, labels: Tensor) -> Tensor:
    """Summed loss in nats by way of all logits."""
    return cross_entropy(model(ids), labels)[0]


def lean_loss(
    chunked_loss: ChunkedLoss, chunk_rows: int, model: MiniLLM, ids: Tensor, labels: Tensor
) -> Tensor:
    """The same loss from a few rows of logits at a time."""
    hidden = model.hidden_states(ids).flatten(0, 1)
    return chunked_loss(hidden, model.lm_head.weight, shift_labels(labels).flatten(), chunk_rows)


@contextmanager
def layers_under(checkpoint: Checkpoint, model: MiniLLM) -> Iterator[None]:
    """While the block lasts, every layer of the model is run by `checkpoint`."""

    def run(layer: nn.Module, whole: Callable[..., Tensor], x: Tensor, *rest: Any) -> Tensor:
        parameters = tuple(p for p in layer.parameters() if p.requires_grad)
        return checkpoint(lambda stream: whole(stream, *rest), x, parameters)

    for layer in model.model.layers:
        layer.forward = partial(run, layer, layer.forward)
    try:
        yield
    finally:
        for layer in model.model.layers:
            del layer.forward  # the class's own is back


def gradients(
    model: MiniLLM, loss: Loss, ids: Tensor, labels: Tensor, checkpoint: Checkpoint | None = None
) -> tuple[float, list[Tensor]]:
    """One step's loss, a token, and the gradients of all that trains."""
    trained = [p for p in model.parameters() if p.requires_grad]
    with nullcontext() if checkpoint is None else layers_under(checkpoint, model):
        mean = loss(model, ids, labels) / (labels[:, 1:] != IGNORE_INDEX).sum()
        return mean.item(), list(torch.autograd.grad(mean, trained))


def peak_mib(
    model: MiniLLM, loss: Loss, ids: Tensor, labels: Tensor, checkpoint: Checkpoint | None = None
) -> float:
    """The most that a step holds beside the model's parameters and buffers, in MiB."""
    tracker = AllocationTracker()
    tracker.watch([*model.parameters(), *model.buffers()])
    there = tracker.live_bytes
    with tracker:
        gradients(model, loss, ids, labels, checkpoint)
    return (tracker.peak_bytes - there) / 2**20


def main(path: Path) -> None:
    """Write the envelope: a row of MiB a text and model, with where and how it was made."""
    from grader.labs.lab07_training_efficiency import reference as labkits

    runs: dict[str, list[list[float]]] = {}
    for recipe in (MINI, Recipe()):
        loaded, rows = adapted(recipe), runs.setdefault(recipe.model, [])
        lean = partial(lean_loss, labkits.chunked_loss, recipe.chunk_rows)
        for seed in ENVELOPE_SEEDS:
            batches = [texts(recipe, loaded.tokenizer, at, seed) for at in recipe.limits]
            found = [peak_mib(loaded.model, lean, *pair, labkits.checkpoint) for pair in batches]
            rows.append([round(mib, 3) for mib in found])
            sys.stderr.write(f"{recipe.model}, seed {seed}: {rows[-1]}\n")
    results = {
        "metric": "peak of a LoRA step beside the model's weights, by the limit of its texts",
        "unit": "MiB",
        "limits": Recipe().limits,
        "runs": runs,
        "seeds": ENVELOPE_SEEDS,
    }
    envelope.write(path, "lab07_training_efficiency", results)


if __name__ == "__main__":
    main(Path("solutions/lab07_training_efficiency/envelope.json"))
