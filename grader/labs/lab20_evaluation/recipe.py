"""The evaluation at the end of lab 20: texts and items, the same for learners and the envelope.

`python -m grader.labs.lab20_evaluation.recipe` repeats the context curve with labkit's functions on
other texts and writes `solutions/lab20_evaluation/envelope.json`, the normal results that a
learner's curve is drawn over.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from grader.labs import envelope
from labkit.data.pydoc_corpus import as_text, functions, split
from labkit.data.questions import Item, multiple_choice
from labkit.model import zoo

WINDOW = 64
CONTEXTS = (1, 16, 32, 48)
TEXT_BYTES = 1800
ENVELOPE_SEEDS = (1, 2, 3, 4, 5, 6)

Plan = Callable[[int, int, int], list[tuple[int, int, int]]]
Measure = Callable[[Sequence[tuple[Tensor, Tensor]], int], tuple[float, float]]


def text(seed: int) -> str:
    """Documentation of held-out functions drawn by the seed, a few hundred tokens of it."""
    _, held_out = split(functions())
    order = np.random.default_rng(seed).permutation(len(held_out))
    drawn = "\n\n\n".join(as_text(held_out[i] for i in order[:40]))
    return drawn.encode()[:TEXT_BYTES].decode(errors="ignore")


def items(count: int) -> list[Item]:
    """Questions about held-out functions; the answer's place is drawn."""
    _, held_out = split(functions())
    return multiple_choice(held_out, count=count, rng=np.random.default_rng(0))


def modules_of(some_items: Sequence[Item]) -> np.ndarray:
    """One number an item: the module its function lives in, counted from 0."""
    names = [item.question.split("`")[1].split(".")[0] for item in some_items]
    return np.unique(names, return_inverse=True)[1]


@torch.no_grad()
def batches_of(
    loaded: zoo.Loaded, ids: Tensor, plan: list[tuple[int, int, int]]
) -> list[tuple[Tensor, Tensor]]:
    """Logits and labels of every window; tokens that it does not score are labelled -100."""
    device = loaded.model.lm_head.weight.device
    found = []
    for begin, end, first_scored in plan:
        rows = ids[None, begin:end]
        labels = rows.clone()
        labels[:, : first_scored - begin] = -100
        found.append((loaded.model(rows.to(device)).float().cpu(), labels))
    return found


def bits_by_context(
    loaded: zoo.Loaded, content: str, plan: Plan, measure: Measure, contexts: Sequence[int]
) -> list[float]:
    """Bits per byte of one text at several least contexts, divided by the first of them."""
    ids = torch.tensor(loaded.tokenizer.encode(content))
    num_bytes = len(loaded.tokenizer.decode(ids[1:].tolist()).encode())
    bits = [
        measure(batches_of(loaded, ids, plan(len(ids), WINDOW, context)), num_bytes)[1]
        for context in contexts
    ]
    return [value / bits[0] for value in bits]


def main(path: Path) -> None:
    """Write the envelope: one row a text, with where and how it was made."""
    from grader.labs.lab20_evaluation import reference

    loaded = zoo.load("smollm2-135m")
    rows = []
    for seed in ENVELOPE_SEEDS:
        curve = bits_by_context(
            loaded, text(seed), reference.plan_windows, reference.perplexity_of, CONTEXTS
        )
        rows.append([round(value, 4) for value in curve])
        sys.stderr.write(f"text {seed}: {rows[-1]}\n")
    results = {
        "metric": "bits per byte, relative to the least context of one token",
        "unit": "ratio",
        "contexts": CONTEXTS,
        "runs": rows,
        "seeds": ENVELOPE_SEEDS,
    }
    envelope.write(path, "lab20_evaluation", results)


if __name__ == "__main__":
    main(Path("solutions/lab20_evaluation/envelope.json"))
