"""The run at the end of lab 04: SmolLM2 tuned on a base in four bits, and on one in bfloat16.

`python -m grader.labs.lab04_qlora.recipe` repeats it with labkit's own QLoRA for several seeds and
writes `solutions/lab04_qlora/envelope.json`, the normal results that a learner's curve is drawn
over.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grader.labs import envelope
from labkit.data.batch import TokenBatch, batches, collate
from labkit.data.chat import encode_chat
from labkit.data.pydoc_corpus import functions, split
from labkit.data.questions import question_answers
from labkit.model import zoo
from labkit.quant.blockwise import DYNAMIC_MAP, UNSIGNED_DYNAMIC_MAP
from labkit.runtime.seeding import generator
from labkit.training.forward import causal_lm_loss

ENVELOPE_SEEDS = (1, 2, 3, 4, 5)
MAPS = DYNAMIC_MAP, UNSIGNED_DYNAMIC_MAP
SCALES_BLOCK = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Settings of the run; every learner's and every envelope's run has the same.

    Attributes:
        every: Steps between two looks at the held-out answers.
        held_out: Questions there.
        longest: Tokens of a question with its answer.
    """

    targets: tuple[str, ...] = ("q_proj", "v_proj")
    rank: int = 8
    scaling: float = 2.0
    block_size: int = 64
    lr: float = 2e-3
    steps: int = 16
    every: int = 4
    batch_size: int = 6
    longest: int = 64
    held_out: int = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Tools:
    """What the lab's exercises are, by name; labkit's for the envelope."""

    codes: Tensor
    pack_weight: Callable[..., Any]
    unpack_weight: Callable[..., Tensor]
    double_quantize: Callable[..., Any]
    frozen_product: Any
    adam8bit_update: Callable[..., Any]


class PackedLinear(nn.Module):
    """A linear layer that has its weight in four bits and its scales in eight."""

    def __init__(self, linear: nn.Linear, tools: Tools, block_size: int) -> None:
        super().__init__()
        weight = linear.weight.detach()
        O, I = weight.shape  # noqa: E741
        self.shape, self.dtype = (O, I), weight.dtype
        self._tools, self._block_size = tools, block_size
        packed, absmax = tools.pack_weight(weight, tools.codes, block_size)
        scales, second, offset, _ = tools.double_quantize(absmax, MAPS[0])
        for name, part in {"packed": packed, "scales": scales, "second": second}.items():
            self.register_buffer(name, part)
        self.register_buffer("offset", offset)

    def expand(self) -> Tensor:
        """The dense weight, made anew."""
        held = dict(self.named_buffers())
        blocks = held["second"].repeat_interleave(SCALES_BLOCK)[: len(held["scales"])]
        absmax = MAPS[0][held["scales"].int()] * blocks + held["offset"]
        return self._tools.unpack_weight(
            held["packed"], absmax, self._tools.codes, self._block_size, self.shape, self.dtype
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self._tools.frozen_product.apply(x, self.expand)
        return y


class Adapted(nn.Module):
    """A frozen layer plus s (x A^T) B^T with factors in float32; B starts at zero."""

    def __init__(
        self, base: nn.Module, shape: tuple[int, int], recipe: Recipe, gen: torch.Generator
    ) -> None:
        super().__init__()
        (O, I), R = shape, recipe.rank  # noqa: E741
        self.base, self._scaling = base, recipe.scaling
        self.lora_A = nn.Parameter(torch.randn(R, I, generator=gen) / I**0.5)
        self.lora_B = nn.Parameter(torch.zeros(O, R))

    def forward(self, x: Tensor) -> Tensor:
        update = self._scaling * ((x.float() @ self.lora_A.T) @ self.lora_B.T)
        y: Tensor = self.base(x)
        return y + update.to(y.dtype)


def matrices(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of the blocks; the head, which is the embedding, stays as it is."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and "layers." in name
    }


def packed(model: nn.Module, tools: Tools, recipe: Recipe) -> Iterator[PackedLinear]:
    """Put every matrix of the blocks into four bits, one after another."""
    for name, linear in matrices(model).items():
        layer = PackedLinear(linear, tools, recipe.block_size)
        model.set_submodule(name, layer)
        yield layer


def adapt(model: nn.Module, recipe: Recipe, seed: int) -> list[nn.Parameter]:
    """Freeze the model, put adapters on the targets, return what trains."""
    model.requires_grad_(False)
    gen = generator(seed)
    for name, layer in list(model.named_modules()):
        if name.rpartition(".")[2] in recipe.targets:
            shape = layer.shape if isinstance(layer, PackedLinear) else tuple(layer.weight.shape)
            model.set_submodule(name, Adapted(layer, shape, recipe, gen))
    return [p for p in model.parameters() if p.requires_grad]


def held_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])


def examples(recipe: Recipe, tokenizer: Any) -> tuple[list[Any], list[Any]]:
    """Questions about Python functions with their answers: to train on, and of other functions."""
    found = []
    for part in split(functions()):
        encoded = [
            encode_chat(tokenizer, chat).truncated(recipe.longest)
            for chat in question_answers(part)
        ]
        found.append([example for example in encoded if example.labels[-1] != -100])
    return found[0], found[1][:: len(found[1]) // recipe.held_out][: recipe.held_out]


@torch.no_grad()
def loss_nats(model: nn.Module, batch: TokenBatch) -> float:
    """Mean loss a token of the held-out answers."""
    loss, counted = causal_lm_loss(model, batch)
    return loss.item() / counted


def held_out_curve(
    loaded: zoo.Loaded,
    factors: Sequence[nn.Parameter],
    update: Callable[..., Any],
    recipe: Recipe,
    seed: int,
    steps: int,
) -> Iterator[float]:
    """Train the factors by 8-bit Adam; yield the held-out loss before and after each few steps."""
    model, tokenizer = loaded.model, loaded.tokenizer
    training, other = examples(recipe, tokenizer)
    held_out = collate(other, tokenizer.pad_id)
    options = {"batch_size": recipe.batch_size, "pad_id": tokenizer.pad_id}
    source = batches(training, generator=generator(seed), **options)
    states: dict[int, Any] = {}
    yield loss_nats(model, held_out)
    for step, batch in zip(range(1, steps + 1), source, strict=False):
        loss, counted = causal_lm_loss(model, batch)
        gradients = torch.autograd.grad(loss / counted, list(factors))
        with torch.no_grad():
            for number, (factor, gradient) in enumerate(zip(factors, gradients, strict=True)):
                change, states[number] = update(
                    gradient.flatten(), states.get(number), step, MAPS, recipe.lr
                )
                factor.add_(change.view_as(factor))
        if step % recipe.every == 0:
            yield loss_nats(model, held_out)


def normal_run(recipe: Recipe, tools: Tools, seed: int, *, in_four_bits: bool) -> list[float]:
    """One run of the envelope."""
    loaded = zoo.load("smollm2-135m", dtype="bfloat16", device="cpu")
    if in_four_bits:
        for _ in packed(loaded.model, tools, recipe):
            pass
    factors = adapt(loaded.model, recipe, seed)
    update = tools.adam8bit_update
    return list(held_out_curve(loaded, factors, update, recipe, seed, recipe.steps))


def labkits() -> Tools:
    """labkit's own functions."""
    from grader.labs.lab04_qlora import reference

    return Tools(
        codes=reference.normal_float(4),
        pack_weight=reference.pack_weight,
        unpack_weight=reference.unpack_weight,
        double_quantize=reference.double_quantize,
        frozen_product=reference.FrozenProduct,
        adam8bit_update=reference.adam8bit_update,
    )


def main(path: Path) -> None:
    """Write the envelope: a row of losses a base and seed, with where and how it was made."""
    recipe = Recipe()
    runs: dict[str, list[list[float]]] = {"nf4": [], "bfloat16": []}
    for seed in ENVELOPE_SEEDS:
        for base, rows in runs.items():
            found = normal_run(recipe, labkits(), seed, in_four_bits=base == "nf4")
            rows.append([round(loss, 4) for loss in found])
            sys.stderr.write(f"{base}, seed {seed}: {rows[-1]}\n")
    results = {
        "metric": "held-out loss a token of the answers",
        "unit": "nats",
        "steps": list(range(0, recipe.steps + 1, recipe.every)),
        "runs": runs,
        "seeds": ENVELOPE_SEEDS,
    }
    envelope.write(path, "lab04_qlora", results)


if __name__ == "__main__":
    main(Path("solutions/lab04_qlora/envelope.json"))
