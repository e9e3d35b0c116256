"""The run at the end of lab 15: SmolLM2 with fewer bits a weight, and what they cost.

`python -m grader.labs.lab15_quantization.recipe` repeats it with labkit's quantizer on other texts
and writes `solutions/lab15_quantization/envelope.json`, the normal results that a learner's curve
is drawn over.
"""

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grader.labs import envelope
from labkit.compression.calibration import calibration_windows
from labkit.data import pydoc_corpus
from labkit.model import zoo
from labkit.runtime.seeding import generator

ENVELOPE_SEEDS = (1, 2, 3, 4, 5, 6)
FakeQuantize = Callable[[Tensor, int, int], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Settings of the run; every learner's and every envelope's run has the same."""

    bits: tuple[int, ...] = (3, 4, 5, 6, 8)
    group_size: int = 64
    windows: int = 2
    length: int = 192


def texts(recipe: Recipe, tokenizer: Any, seed: int) -> Tensor:
    """Windows of Python's documentation, (windows, length)."""
    documentation = pydoc_corpus.as_text(pydoc_corpus.functions()[::40])
    return calibration_windows(
        torch.tensor(tokenizer.encode("\n\n".join(documentation))),
        length=recipe.length,
        count=recipe.windows,
        generator=generator(seed),
    )


def matrices(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of the blocks; the head, which is the embedding, stays as it is."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and "layers." in name
    }


@torch.no_grad()
def divergence_nats(model: nn.Module, changed: nn.Module, ids: Tensor) -> float:
    """KL(original || changed) of the next token, mean over all positions."""
    expected, got = (m(ids).log_softmax(-1) for m in (model, changed))
    kl = torch.nn.functional.kl_div(got, expected, log_target=True, reduction="sum")
    return float(kl) / ids.numel()


@torch.no_grad()
def curve(
    model: nn.Module, ids: Tensor, fake_quantize: FakeQuantize, recipe: Recipe, bits: Sequence[int]
) -> Iterator[float]:
    """Yield the divergence at each width; `fake_quantize(weight, bits, group_size)`."""
    for width in bits:
        changed = copy.deepcopy(model)
        for linear in matrices(changed).values():
            linear.weight.copy_(fake_quantize(linear.weight.detach(), width, recipe.group_size))
        yield divergence_nats(model, changed, ids)


def main(path: Path) -> None:
    """Write the envelope: one row of divergences a seed, with where and how it was made."""
    from labkit.quant import affine

    def rounded(weight: Tensor, bits: int, group_size: int) -> Tensor:
        config = affine.AffineConfig(bits=bits, granularity="group", group_size=group_size)
        return affine.fake_quantize(weight, config)

    recipe, loaded, rows = Recipe(), zoo.load("smollm2-135m", dtype="float32", device="cpu"), []
    for seed in ENVELOPE_SEEDS:
        ids = texts(recipe, loaded.tokenizer, seed)
        found = curve(loaded.model, ids, rounded, recipe, recipe.bits)
        rows.append([float(f"{nats:.4g}") for nats in found])
        sys.stderr.write(f"seed {seed}: {rows[-1]}\n")
    results = {
        "metric": "KL(original || quantized) a token",
        "unit": "nats",
        "bits": recipe.bits,
        "runs": rows,
        "seeds": ENVELOPE_SEEDS,
    }
    envelope.write(path, "lab15_quantization", results)


if __name__ == "__main__":
    main(Path("solutions/lab15_quantization/envelope.json"))
