"""The run at the end of lab 01: SmolLM2 on windows of text, and its loss by a token's place.

`python -m grader.labs.lab01_minillm.recipe` repeats it with labkit's model on other windows and
writes `solutions/lab01_minillm/envelope.json`, the normal results that a learner's curve is drawn
over.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grader.labs import envelope
from labkit.compression.calibration import calibration_windows
from labkit.data import pydoc_corpus
from labkit.model import zoo
from labkit.runtime.seeding import generator

ENVELOPE_SEEDS = (1, 2, 3, 4, 5, 6)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Settings of the run; every learner's and every envelope's run has the same.

    Attributes:
        windows: texts.
        length: tokens in each.
        edges: the loss is averaged over places from each of these up to the next.
        window: tokens that a query sees, where attention is cut short.
        sinks: first tokens that it sees besides.
    """

    windows: int = 12
    length: int = 128
    edges: tuple[int, ...] = (1, 4, 8, 16, 32, 64, 128)
    window: int = 32
    sinks: int = 1


def texts(recipe: Recipe, tokenizer: Any, seed: int) -> Tensor:
    """Windows of Python's documentation, (windows, length)."""
    documentation = pydoc_corpus.as_text(pydoc_corpus.functions()[::40])
    return calibration_windows(
        torch.tensor(tokenizer.encode("\n\n".join(documentation))),
        length=recipe.length,
        count=recipe.windows,
        generator=generator(seed),
    )


def block_weights(model: torch.nn.Module, layer: int) -> Mapping[str, Tensor]:
    """The weights of one layer by their names inside of it."""
    return model.get_submodule(f"model.layers.{layer}").state_dict()


def loss_by_place(logits: Tensor, ids: Tensor, edges: tuple[int, ...]) -> list[float]:
    """Mean loss in nats of the tokens at places [edge, next edge), over all windows."""
    log_probs = logits[:, :-1].log_softmax(-1)
    nats = -log_probs.gather(-1, ids[:, 1:, None])[..., 0]  # column t is the token at place t + 1
    return [
        float(nats[:, low - 1 : high - 1].mean())
        for low, high in pairwise(edges)
        if low < ids.shape[1]
    ]


def main(path: Path) -> None:
    """Write the envelope: one row of losses a seed, with where and how it was made."""
    recipe, loaded, rows = Recipe(), zoo.load("smollm2-135m", dtype="float32", device="cpu"), []
    for seed in ENVELOPE_SEEDS:
        ids = texts(recipe, loaded.tokenizer, seed)
        with torch.no_grad():
            nats = loss_by_place(loaded.model(ids), ids, recipe.edges)
        rows.append([round(value, 4) for value in nats])
        sys.stderr.write(f"seed {seed}: {rows[-1]}\n")
    results = {
        "metric": "loss of a token by its place in the text",
        "unit": "nats",
        "edges": recipe.edges,
        "runs": rows,
        "seeds": ENVELOPE_SEEDS,
    }
    envelope.write(path, "lab01_minillm", results)


if __name__ == "__main__":
    main(Path("solutions/lab01_minillm/envelope.json"))
