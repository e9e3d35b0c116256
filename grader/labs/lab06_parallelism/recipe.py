"""The run at the end of lab 06: two processes train a model through a learner's all-reduce.

`python -m grader.labs.lab06_parallelism.recipe` trains in one process, which is what any number of
processes must reproduce, on other batches, and writes `solutions/lab06_parallelism/envelope.json`,
the normal results that a learner's curve is drawn over.
"""

import pickle
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from grader.labs import envelope
from labkit.compression.calibration import calibration_windows
from labkit.data import pydoc_corpus
from labkit.model import zoo
from labkit.objectives.language_modelling import cross_entropy
from labkit.runtime.seeding import generator
from labkit.training.parallel import launch, wire

ENVELOPE_SEEDS = (1, 2, 3, 4, 5)
HELD_OUT_SEED = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Settings of the run; every learner's and every envelope's run of a model has the same.

    Attributes:
        model: a name that `zoo.load` knows.
        n: processes.
        rows: sequences of each in a step.
        length: tokens in each sequence.
        held_out: sequences on which the loss is measured after every step.
    """

    model: str = "smollm2-135m"
    n: int = 2
    steps: int = 5
    rows: int = 1
    length: int = 48
    held_out: int = 2
    lr: float = 0.005
    bucket_bytes: int = 25 * 2**20


def small() -> Recipe:
    """The same with the course's own model, for a quick look."""
    return Recipe(model="mini", lr=0.02)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One step: its loss, the loss afterwards on other text, and what exchanging took and sent."""

    loss_nats: float
    held_out_nats: float
    compute_s: float = 0.0
    exchange_s: float = 0.0
    sent_bytes: int = 0


def fresh(recipe: Recipe) -> zoo.Loaded:
    """The model as it was pretrained, in float32."""
    return zoo.load(recipe.model, dtype="float32", device="cpu")


def batches(recipe: Recipe, tokenizer: Any, seed: int) -> Tensor:
    """All ranks' sequences of every step, (steps, n rows, length)."""
    count = recipe.steps * recipe.n * recipe.rows
    return _windows(recipe, tokenizer, 0, count, seed).view(recipe.steps, -1, recipe.length)


def held_out(recipe: Recipe, tokenizer: Any) -> Tensor:
    """From the other half of the language reference's topics, always the same."""
    return _windows(recipe, tokenizer, 1, recipe.held_out, HELD_OUT_SEED)


def _windows(recipe: Recipe, tokenizer: Any, first: int, count: int, seed: int) -> Tensor:
    ids = torch.tensor(tokenizer.encode("\n\n".join(pydoc_corpus.topics()[first::4])))
    return calibration_windows(ids, length=recipe.length, count=count, generator=generator(seed))


def mean_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """In nats a token."""
    nats, count = cross_entropy(model(ids), ids)
    return nats / count


def one_process(loaded: zoo.Loaded, recipe: Recipe, seed: int) -> Iterator[Record]:
    """Plain SGD on whole batches; trains the model that it is given."""
    model, others = loaded.model, held_out(recipe, loaded.tokenizer)
    for ids in batches(recipe, loaded.tokenizer, seed):
        loss = mean_loss(model, ids)
        loss.backward()
        _descend(model, recipe.lr)
        with torch.no_grad():
            yield Record(loss_nats=loss.item(), held_out_nats=mean_loss(model, others).item())


@torch.no_grad()
def _descend(model: nn.Module, lr: float) -> None:
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.sub_(parameter.grad, alpha=lr)
        parameter.grad = None


def several_processes(
    ring_all_reduce: Callable[..., tuple[Tensor, Tensor]],
    bucket_timeline: Callable[..., tuple[list[list[int]], Any]],
    recipe: Recipe,
    seed: int,
    folder: Path,
) -> Iterator[Record]:
    """The same SGD on recipe.n processes, each with its rows; gradients travel in buckets.

    Args:
        ring_all_reduce: exercise 1, which sums each bucket.
        bucket_timeline: exercise 2, which says what is in each.
        recipe: settings.
        seed: of the batches.
        folder: where the processes' files lie.
    """
    code: bytes = import_module("cloudpickle").dumps((ring_all_reduce, bucket_timeline))
    with launch.Ranks(recipe.n, folder, deadline_s=300.0) as ranks:
        ranks.run(_prepare, recipe, seed, code)
        for step in range(recipe.steps):
            found = ranks.run(_step, step)
            losses, others, computed, exchanged, sent = zip(*found, strict=True)
            yield Record(
                loss_nats=sum(losses) / recipe.n,
                held_out_nats=sum(others) / recipe.n,
                compute_s=max(computed),
                exchange_s=max(exchanged),
                sent_bytes=max(sent),
            )


class _Mail:
    """The learner's `send` and `receive` between processes; a message goes after its length."""

    def __init__(self) -> None:
        self._sent: list[tuple[dist.Work, Tensor]] = []

    def send(self, tensor: Tensor, to: int) -> None:
        payload = tensor.detach().flatten().clone()
        for message in (torch.tensor([payload.numel()]), payload):
            work = dist.isend(message, to)
            assert work is not None
            self._sent.append((work, message))

    def receive(self, source: int) -> Tensor:
        length = torch.zeros(1, dtype=torch.int64)
        dist.recv(length, source)
        payload = torch.empty(int(length))
        dist.recv(payload, source)
        return payload

    def finish(self) -> None:
        for work, _ in self._sent:
            work.wait()
        self._sent = []


def _prepare(recipe: Recipe, seed: int, code: bytes) -> None:
    """What a rank keeps from step to step."""
    loaded, rank = fresh(recipe), dist.get_rank()
    launch.held["recipe"], launch.held["model"] = recipe, loaded.model
    launch.held["batches"] = [
        ids.chunk(recipe.n)[rank] for ids in batches(recipe, loaded.tokenizer, seed)
    ]
    launch.held["others"] = held_out(recipe, loaded.tokenizer).chunk(recipe.n)[rank]
    launch.held["learner"] = pickle.loads(code)


def _step(step: int) -> tuple[float, float, float, float, int]:
    """Loss, held-out loss, seconds of computing and of exchanging, bytes sent."""
    recipe, model = launch.held["recipe"], launch.held["model"]
    started = time.perf_counter()
    loss = mean_loss(model, launch.held["batches"][step])
    loss.backward()
    computed, before = time.perf_counter(), wire.sent_bytes()
    _exchange(list(model.parameters()), recipe, *launch.held["learner"])
    exchanged, sent = time.perf_counter(), wire.sent_bytes() - before
    _descend(model, recipe.lr)
    with torch.no_grad():
        others = mean_loss(model, launch.held["others"]).item()
    return loss.item(), others, computed - started, exchanged - computed, sent


def _exchange(
    parameters: list[nn.Parameter],
    recipe: Recipe,
    ring_all_reduce: Callable[..., tuple[Tensor, Tensor]],
    bucket_timeline: Callable[..., tuple[list[list[int]], Any]],
) -> None:
    """Makes every gradient the mean over ranks, bucket by bucket."""
    sizes, mail, n = [4 * p.numel() for p in parameters], _Mail(), recipe.n
    buckets, _ = bucket_timeline(sizes, [0.0] * len(sizes), recipe.bucket_bytes, n, 0.0, 1.0)
    for bucket in buckets:
        gradients = [_gradient(parameters[number]) for number in bucket]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        _, total = ring_all_reduce(flat, dist.get_rank(), n, mail.send, mail.receive)
        mail.finish()
        means = (total / n).split([gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def arrivals(model: nn.Module, ids: Tensor) -> tuple[list[int], list[float]]:
    """Bytes of every gradient, and when it is ready in a real backward pass, in milliseconds."""
    ready: dict[Tensor, float] = {}

    def note(parameter: Tensor) -> None:
        ready[parameter] = time.perf_counter()

    parameters = list(model.parameters())
    hooks = [parameter.register_post_accumulate_grad_hook(note) for parameter in parameters]
    loss = mean_loss(model, ids)
    started = time.perf_counter()
    loss.backward()
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    return [p.nbytes for p in parameters], [1000 * (ready[p] - started) for p in parameters]


def main(path: Path) -> None:
    """Write the envelope: a row of held-out losses a model and seed, with how it was made."""
    runs: dict[str, list[list[float]]] = {}
    for recipe in (Recipe(), small()):
        runs[recipe.model] = []
        for seed in ENVELOPE_SEEDS:
            found = list(one_process(fresh(recipe), recipe, seed))
            runs[recipe.model].append([round(record.held_out_nats, 4) for record in found])
            sys.stderr.write(f"{recipe.model}, seed {seed}: {runs[recipe.model][-1]}\n")
    results = {
        "metric": "loss on held-out text after each step",
        "unit": "nats a token",
        "runs": runs,
        "seeds": ENVELOPE_SEEDS,
    }
    envelope.write(path, "lab06_parallelism", results)


if __name__ == "__main__":
    main(Path("solutions/lab06_parallelism/envelope.json"))
