"""The run at the end of lab 12: SmolLM2 under three adapters, all in one batch of a learner's code.

`python -m grader.labs.lab12_multi_adapter_serving.recipe` repeats it with labkit's grouped product
for several seeds and writes `solutions/lab12_multi_adapter_serving/envelope.json`, the normal
results that a learner's curve is drawn over.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grader.labs import envelope
from labkit.data.reports import texts
from labkit.model import zoo
from labkit.model.zoo import Loaded
from labkit.objectives.language_modelling import IGNORE_INDEX, cross_entropy
from labkit.runtime.seeding import generator
from labkit.tuning import lora

ENVELOPE_SEEDS = (1, 2, 3, 4, 5)
Factors = tuple[Tensor, Tensor, float]  # A (R, I), B (O, R) and the scaling
Places = dict[str, Factors]  # of one adapter, by the path of the projection
AddGrouped = Callable[[Tensor, Tensor, Sequence[Factors], Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Settings of the run; every learner's and every envelope's run has the same.

    Attributes:
        ranks: Of each topic's adapter.
        checkpoints: Steps after which the adapters are measured.
        tokens: Of each text, from its beginning.
    """

    ranks: tuple[tuple[str, int], ...] = (("finance", 4), ("medical", 8), ("python", 2))
    targets: str = r"model\.layers\.2[2-9]\.self_attn\.(q|k|v)_proj"
    checkpoints: tuple[int, ...] = (0, 2, 4, 6)
    batch_size: int = 2
    tokens: int = 40
    held_out: int = 2
    lr: float = 1e-2

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(topic for topic, _ in self.ranks)


def tokens(loaded: Loaded, chosen: Sequence[str], recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Ids of the texts' beginnings, padded at the end, and labels that leave the padding out."""
    rows = [loaded.tokenizer.encode(text)[: recipe.tokens] for text in chosen]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [loaded.tokenizer.pad_id] * (longest - len(row)) for row in rows])
    labels = torch.tensor([row + [IGNORE_INDEX] * (longest - len(row)) for row in rows])
    return ids, labels


def tuned(loaded: Loaded, topic: str, recipe: Recipe, seed: int) -> list[Places]:
    """Tune an adapter on a topic: what it is at each checkpoint; the model stays as it was."""
    model, rank = loaded.model, dict(recipe.ranks)[topic]
    config = lora.LoraConfig(rank=rank, alpha=2.0 * rank, target_modules=recipe.targets)
    lora.apply(model, config, generator=generator(seed))
    stages = []
    try:
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=recipe.lr, weight_decay=0.0)
        chosen = texts(topic, recipe.batch_size * max(recipe.checkpoints), seed, held_out=False)
        for step in range(max(recipe.checkpoints) + 1):
            if step in recipe.checkpoints:
                stages.append(places(model))
            if step < max(recipe.checkpoints):
                batch = chosen[step * recipe.batch_size :][: recipe.batch_size]
                ids, labels = tokens(loaded, batch, recipe)
                total, count = cross_entropy(model(ids), labels)
                optimizer.zero_grad()
                (total / count).backward()
                optimizer.step()
    finally:
        lora.remove(model)
    return stages


def places(model: nn.Module) -> Places:
    """Copies of the factors that a model with LoRA has now."""
    return {
        path: (
            layer.lora_A.weight.detach().clone(),
            layer.lora_B.weight.detach().clone(),
            layer.scaling,
        )
        for path, layer in lora.layers(model).items()
    }


@contextmanager
def under(
    model: nn.Module, adapters: Sequence[Places], slots: Sequence[int], add_grouped: AddGrouped
) -> Iterator[nn.Module]:
    """Within the context row b of a batch runs under `adapters[slots[b] - 1]`; 0 is the base.

    Hooks behind the projections call a learner's function; the context takes them off again.
    """
    of_rows = torch.tensor(slots)

    def hook(path: str) -> Callable[..., Tensor]:
        factors = [own[path] for own in adapters]

        def add(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
            [x] = args  # (B, T, I)
            of_tokens = of_rows.repeat_interleave(x.shape[1])
            rows = add_grouped(y.flatten(0, 1), x.flatten(0, 1), factors, of_tokens)
            return rows.view(y.shape)

        return add

    with ExitStack() as stack, torch.no_grad():
        for path in adapters[0] if adapters else ():
            handle = model.get_submodule(path).register_forward_hook(hook(path))
            stack.callback(handle.remove)
        yield model


def loss_table(
    loaded: Loaded, adapters: Sequence[Places], recipe: Recipe, add_grouped: AddGrouped
) -> list[list[float]]:
    """Nats a token on held-out texts of each topic (columns), under the base and each adapter.

    All of it is one batch: every text once for each row of the table.
    """
    chosen = [t for topic in recipe.topics for t in texts(topic, recipe.held_out, 0, held_out=True)]
    ids, labels = tokens(loaded, chosen, recipe)
    models = len(adapters) + 1
    slots = [slot for slot in range(models) for _ in chosen]
    with under(loaded.model, adapters, slots, add_grouped) as model:
        logits = model(ids.repeat(models, 1))
    rows = zip(
        logits.split(recipe.held_out), labels.repeat(models, 1).split(recipe.held_out), strict=True
    )
    losses = []
    for scores, targets in rows:
        total, count = cross_entropy(scores, targets)
        losses.append(float(total) / count)
    columns = len(recipe.topics)
    return [losses[n : n + columns] for n in range(0, len(losses), columns)]


def own_gain(table: Sequence[Sequence[float]]) -> float:
    """Mean over adapters of the loss on their own topic, less the base model's there."""
    own = [row[n] - table[0][n] for n, row in enumerate(table[1:])]
    return sum(own) / len(own)


class Served:
    """The model behind a learner's endpoint: their manager's names, their product, real weights.

    Args:
        manager: An `AdapterManager` of exercise 2.
        stored: Adapters by path.
    """

    def __init__(
        self, loaded: Loaded, manager: Any, stored: dict[str, Places], add_grouped: AddGrouped
    ) -> None:
        self._loaded, self._manager, self._add = loaded, manager, add_grouped
        self._stored, self._weights = stored, dict[int, Places]()
        for name in ("names", "draining", "acquire", "release", "unmount"):
            setattr(self, name, getattr(manager, name))

    def load(self, name: str, path: str) -> str:
        """Mount the adapter at a path.

        Raises:
            ValueError: there is none.
        """
        if path not in self._stored:
            raise ValueError(f"no adapter lies at {path}")
        version: str = self._manager.mount(name)
        uid = self._manager.acquire(version)
        self._weights[uid] = self._stored[path]
        self._manager.release(uid)
        return version

    def generate(self, uid: int, prompt: str, max_tokens: int) -> Iterator[str]:
        """The likeliest tokens one by one, until the text ends."""
        tokenizer = self._loaded.tokenizer
        ids = tokenizer.encode(prompt)
        adapters = [self._weights[uid]] if uid else []
        for _ in range(max_tokens):
            with under(self._loaded.model, adapters, [1], self._add) as model:
                token = int(model(torch.tensor([ids]))[0, -1].argmax())
            if token in tokenizer.special_ids:
                return
            ids.append(token)
            yield tokenizer.decode([token])


def main(path: Path) -> None:
    """Write the envelope: gains at each checkpoint, a row a seed, and how it was made."""
    from grader.labs.lab12_multi_adapter_serving.reference import add_grouped

    recipe, loaded = Recipe(), zoo.load("smollm2-135m", dtype="float32", device="cpu")
    runs: list[list[float]] = []
    for seed in ENVELOPE_SEEDS:
        stages = zip(*(tuned(loaded, topic, recipe, seed) for topic in recipe.topics), strict=True)
        runs.append([])
        for adapters in stages:
            table = loss_table(loaded, adapters, recipe, add_grouped)
            runs[-1].append(round(own_gain(table), 4))
        sys.stderr.write(f"seed {seed}: {runs[-1]}\n")
    results = {
        "metric": "loss on an adapter's own topic less the base model's, mean of three adapters",
        "unit": "nats a token",
        "checkpoints": recipe.checkpoints,
        "runs": runs,
        "seeds": ENVELOPE_SEEDS,
    }
    envelope.write(path, "lab12_multi_adapter_serving", results)


if __name__ == "__main__":
    main(Path("solutions/lab12_multi_adapter_serving/envelope.json"))
