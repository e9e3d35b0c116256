"""The runs at the end of lab 05: two methods on one task, and what unseen questions cost.

`python -m grader.labs.lab05_peft_methods.recipe` repeats them with labkit's own methods for several
seeds and writes `solutions/lab05_peft_methods/envelope.json`, the normal results that a learner's
curves are drawn over.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from grader.labs import envelope
from labkit.data.batch import IGNORE_INDEX, Example, TokenBatch, batches, collate
from labkit.data.chat import encode_chat
from labkit.data.pydoc_corpus import functions, split
from labkit.data.questions import question_answers
from labkit.model import zoo
from labkit.runtime.seeding import generator
from labkit.training.forward import causal_lm_loss

ENVELOPE_SEEDS = (0, 1, 2, 3, 4, 5, 6)
MODELS = {"mini": "float32", zoo.SMOLLM2: "bfloat16"}
MakeAdapter = Callable[[nn.Module, int, torch.Generator], nn.Module]
MakeIa3 = Callable[[nn.Module, bool], nn.Module]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Settings of the runs; every learner's and every envelope's run has the same.

    Attributes:
        width: of an adapter beside every feed-forward network.
        scaling: of what it adds.
        every: steps between two looks at the unseen questions.
        unseen: how many of them there are.
        longest: tokens of a question with its answer, at most.
    """

    width: int = 16
    scaling: float = 4.0
    adapter_lr: float = 3e-3
    ia3_lr: float = 1e-2
    steps: int = 8
    every: int = 2
    batch_size: int = 4
    unseen: int = 10
    longest: int = 48

    def at(self) -> list[int]:
        """The steps after which unseen questions are asked."""
        return list(range(0, self.steps + 1, self.every))


def loaded(name: str) -> zoo.Loaded:
    """A frozen model in the precision that its runs have."""
    found = zoo.load(name, dtype=MODELS[name], device="cpu")
    found.model.requires_grad_(False)
    return found


def with_adapters(model: nn.Module, make: MakeAdapter, seed: int) -> list[nn.Parameter]:
    """Put `make(network, D, generator)` around every feed-forward network; what trains."""
    gen = generator(seed)
    for block in model.model.layers:  # type: ignore[union-attr]
        width = block.mlp.down_proj.out_features
        block.mlp = make(block.mlp, width, gen)
    return trained(model)


def with_ia3(model: nn.Module, make: MakeIa3) -> list[nn.Parameter]:
    """Put `make(linear, feedforward)` around keys, values and down projections; what trains."""
    for block in model.model.layers:  # type: ignore[union-attr]
        block.self_attn.k_proj = make(block.self_attn.k_proj, False)
        block.self_attn.v_proj = make(block.self_attn.v_proj, False)
        block.mlp.down_proj = make(block.mlp.down_proj, True)
    return trained(model)


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that get a gradient."""
    return [p for p in model.parameters() if p.requires_grad]


def run(
    found: zoo.Loaded, trains: list[nn.Parameter], lr: float, recipe: Recipe, seed: int
) -> Iterator[float]:
    """Train, yielding the loss of unseen questions in nats a token before, during and after."""
    learn, unseen = questions(found, recipe)
    source = batches(
        learn,
        batch_size=recipe.batch_size,
        pad_id=found.tokenizer.pad_id,
        generator=generator(seed),
    )
    optimizer = torch.optim.AdamW(trains, lr=lr, weight_decay=0.0)
    yield loss(found.model, unseen)
    for step, batch in zip(range(1, recipe.steps + 1), source, strict=False):
        total, count = causal_lm_loss(found.model, batch)
        optimizer.zero_grad()
        (total / count).backward()
        nn.utils.clip_grad_norm_(trains, 1.0)
        optimizer.step()
        if step % recipe.every == 0:
            yield loss(found.model, unseen)


def questions(found: zoo.Loaded, recipe: Recipe) -> tuple[list[Example], TokenBatch]:
    """Questions about Python functions to learn from, and a batch about others."""
    learn, unseen = (
        [encode_chat(found.tokenizer, c).truncated(recipe.longest) for c in question_answers(part)]
        for part in split(functions())
    )
    learn, unseen = (
        [example for example in part if example.labels[-1] != IGNORE_INDEX]
        for part in (learn, unseen)
    )
    return learn, collate(unseen[: recipe.unseen], pad_id=found.tokenizer.pad_id)


@torch.no_grad()
def loss(model: nn.Module, batch: TokenBatch) -> float:
    """Nats a predicted token."""
    total, count = causal_lm_loss(model, batch)
    return float(total) / count


def normal_runs(name: str, recipe: Recipe, seed: int) -> dict[str, list[float]]:
    """Both runs with labkit's own methods."""
    from grader.labs.lab05_peft_methods import reference

    def adapter(base: nn.Module, width: int, gen: torch.Generator) -> nn.Module:
        shape = (width, width, recipe.width, "parallel", recipe.scaling)
        return reference.Adapter(base, *shape, gen)

    with_parallel, rescaled = loaded(name), loaded(name)
    adapters = with_adapters(with_parallel.model, adapter, seed)
    factors = with_ia3(rescaled.model, reference.Ia3Linear)  # type: ignore[arg-type]
    return {
        "adapter": list(run(with_parallel, adapters, recipe.adapter_lr, recipe, seed)),
        "ia3": list(run(rescaled, factors, recipe.ia3_lr, recipe, seed)),
    }


def main(path: Path) -> None:
    """Write the envelope: a row of losses a model, method and seed, and how it was made."""
    recipe = Recipe()
    runs: dict[str, dict[str, list[list[float]]]] = {}
    for name in MODELS:
        runs[name] = {"adapter": [], "ia3": []}
        for seed in ENVELOPE_SEEDS:
            for method, losses in normal_runs(name, recipe, seed).items():
                runs[name][method].append([round(value, 3) for value in losses])
                sys.stderr.write(f"{name}, {method}, seed {seed}: {runs[name][method][-1]}\n")
    results = {
        "metric": "loss of unseen answers a predicted token",
        "unit": "nats",
        "steps": recipe.at(),
        "runs": runs,
        "seeds": ENVELOPE_SEEDS,
    }
    envelope.write(path, "lab05_peft_methods", results)


if __name__ == "__main__":
    main(Path("solutions/lab05_peft_methods/envelope.json"))
