"""The run at the end of lab 02: a small model on the documentation of Python's own functions.

`python -m grader.labs.lab02_pretraining.recipe` repeats it with labkit's own parts for several
seeds and writes `solutions/lab02_pretraining/envelope.json`, the normal results that a learner's
curve is drawn over.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grader.labs import envelope
from labkit.data import pydoc_corpus
from labkit.data.words import SYMBOLS, split_words
from labkit.model.config import ModelConfig
from labkit.model.minillm import MiniLLM, initialise
from labkit.runtime.seeding import generator

ENVELOPE_SEEDS = (1, 2, 3, 4, 5)
Merge = tuple[int, int, int]
Rows = tuple[Tensor, Tensor, Tensor, Tensor]
Point = tuple[int, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Settings of the run; every learner's and every envelope's run has the same.

    Attributes:
        stride: Every so many functions of the documentation are read.
        merges: Of the tokenizer.
        length: Tokens of a row.
        batch_size: Rows of a step.
        held_rows: On which the loss is measured.
        every: Steps between two measurements.
    """

    stride: int = 6
    merges: int = 250
    length: int = 96
    width: int = 64
    batch_size: int = 8
    steps: int = 150
    warmup: int = 15
    stable: int = 75
    peak: float = 3e-3
    weight_decay: float = 0.1
    max_norm: float = 1.0
    held_rows: int = 48
    every: int = 10


def texts(recipe: Recipe) -> tuple[list[str], list[str]]:
    """Texts to train on and held-out ones, from different functions."""
    train, held = pydoc_corpus.split(pydoc_corpus.functions())
    return (
        pydoc_corpus.as_text(train[:: recipe.stride]),
        pydoc_corpus.as_text(held[:: recipe.stride // 2]),
    )


def learn_merges(
    merge_step: Callable[..., Any], train_texts: Sequence[str], merges: int
) -> list[Merge]:
    """Merges in the order they are learnt; the ids below 256 are the bytes in labkit's order."""
    found = Counter(word for text in train_texts for word in split_words(text))
    words, times = [_byte_ids(word) for word in found], list(found.values())
    learnt: list[Merge] = []
    for new in range(256, 256 + merges):
        pair, words = merge_step(words, times, new)
        learnt.append((*pair, new))
    return learnt


_ID_OF = {byte: i for i, byte in enumerate(SYMBOLS)}


def _byte_ids(word: str) -> list[int]:
    return [_ID_OF[byte] for byte in word.encode()]


class Coder:
    """Texts to ids by a learner's encoder, each word once; the last id ends a text."""

    def __init__(self, encode_word: Callable[..., list[int]], merges: Sequence[Merge]) -> None:
        self._encode_word, self._merges = encode_word, list(merges)
        self._tokens = [bytes([byte]) for byte in SYMBOLS]
        for left, right, _ in merges:
            self._tokens.append(self._tokens[left] + self._tokens[right])
        self._known: dict[str, list[int]] = {}
        self.end = len(self._tokens)
        self.vocab_size = self.end + 1

    def encode(self, text: str) -> list[int]:
        """Ids of a text and its end."""
        return [i for word in split_words(text) for i in self._word(word)] + [self.end]

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, without the end."""
        return b"".join(self._tokens[i] for i in ids if i != self.end).decode(errors="replace")

    def _word(self, word: str) -> list[int]:
        if word not in self._known:
            self._known[word] = self._encode_word(_byte_ids(word), self._merges)
        return self._known[word]


def model_config(recipe: Recipe, coder: Coder) -> ModelConfig:
    """Two layers."""
    return ModelConfig(
        vocab_size=coder.vocab_size,
        width=recipe.width,
        num_layers=2,
        num_heads=recipe.width // 16,
        num_kv_heads=recipe.width // 16,
        head_width=16,
        ffn_width=8 * recipe.width // 3,
        max_length=recipe.length,
    )


def pretrain(
    parts: tuple[Callable[..., Any], Callable[..., float], Callable[..., Any]],
    train_rows: Rows,
    held_rows: Rows,
    config: ModelConfig,
    recipe: Recipe,
    seed: int,
) -> Iterator[Point]:
    """Train a new model, yielding step and held-out loss now and then, at the start and the end.

    Args:
        parts: within_documents, learning_rate and optimizer_step.
        train_rows: What pack_rows returned for the training texts.
        held_rows: The same for the others.
        config: Of the model.
        recipe: Settings.
        seed: Of the first weights and of the order of rows.
    """
    within_documents, learning_rate, optimizer_step = parts
    model = MiniLLM(config)
    initialise(model, generator(seed))
    held = tuple(column[: recipe.held_rows] for column in held_rows)
    moments: dict[str, tuple[Tensor, Tensor]] = {}
    plan = recipe.peak, recipe.steps, recipe.warmup, recipe.stable
    order = _orders(len(train_rows[0]), recipe.batch_size, generator(seed))
    for step in range(recipe.steps):
        if step % recipe.every == 0:
            yield step, held_out_loss(model, held, within_documents)
        chosen = next(order)
        loss, count = _loss(model, tuple(c[chosen] for c in train_rows), within_documents)
        weights = dict(model.named_parameters())
        found = torch.autograd.grad(loss / count, list(weights.values()))
        lr = learning_rate(step, *plan)
        settings = step + 1, lr, recipe.weight_decay, (0.9, 0.95), recipe.max_norm
        with torch.no_grad():
            gradients = dict(zip(weights, found, strict=True))
            new, moments, _ = optimizer_step(weights, gradients, moments, *settings)
            for name, weight in weights.items():
                weight.copy_(new[name])
    yield recipe.steps, held_out_loss(model, held, within_documents)


@torch.no_grad()
def held_out_loss(
    model: MiniLLM, rows: tuple[Tensor, ...], within_documents: Callable[..., Any]
) -> float:
    """Nats a token."""
    loss, count = _loss(model, rows, within_documents)
    return float(loss) / count


def _loss(
    model: MiniLLM, rows: tuple[Tensor, ...], within_documents: Callable[..., Any]
) -> tuple[Tensor, int]:
    ids, _, documents, positions = rows
    logits = model(ids, document_ids=documents, positions=positions)
    _, loss, count = within_documents(logits, ids, documents)
    return loss, count


def _orders(rows: int, batch_size: int, gen: torch.Generator) -> Iterator[Tensor]:
    """Rows in batches, in a new order each time round; what does not fill a batch is left out."""
    while True:
        yield from torch.randperm(rows, generator=gen)[: rows - rows % batch_size].split(batch_size)


def main(path: Path) -> None:
    """Write the envelope: one row of losses a seed, with where and how it was made."""
    from grader.labs.lab02_pretraining import reference as labkits

    recipe = Recipe()
    train_texts, held_texts = texts(recipe)
    merges = learn_merges(labkits.merge_step, train_texts, recipe.merges)
    coder = Coder(labkits.encode_word, merges)
    train_rows, held_rows = (
        labkits.pack_rows([coder.encode(text) for text in part], recipe.length, coder.end)
        for part in (train_texts, held_texts)
    )
    parts = labkits.within_documents, labkits.learning_rate, labkits.optimizer_step
    config, rows, steps = model_config(recipe, coder), [], []
    for seed in ENVELOPE_SEEDS:
        found = list(pretrain(parts, train_rows, held_rows, config, recipe, seed))
        steps = [step for step, _ in found]
        rows.append([round(nats, 4) for _, nats in found])
        sys.stderr.write(f"seed {seed}: {rows[-1]}\n")
    results = {
        "metric": "held-out loss while pretraining",
        "unit": "nats a token",
        "steps": steps,
        "runs": rows,
        "seeds": ENVELOPE_SEEDS,
    }
    envelope.write(path, "lab02_pretraining", results)


if __name__ == "__main__":
    main(Path("solutions/lab02_pretraining/envelope.json"))
