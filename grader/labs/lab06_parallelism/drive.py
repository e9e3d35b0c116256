"""How each exercise of lab 06 is called. Runs beside the student's code: numpy and torch only."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from grader.checks.explain import ContractError
from grader.labs.lab06_parallelism.given import Rank, on_ranks

Arrays = dict[str, Any]


def _parts(result: Any, *names: str) -> tuple[Any, ...]:
    """The parts of a returned tuple; a sentence instead of an unpacking error."""
    if type(result) is not tuple or len(result) != len(names):
        wanted, kind = ", ".join(names), type(result).__name__
        raise ContractError(f"expected a tuple ({wanted}), got an object of type {kind}")
    return result


def _tensor(value: Any, name: str, shape: Sequence[int]) -> Tensor:
    if not isinstance(value, Tensor) or tuple(value.shape) != tuple(shape):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ContractError(f"{name}: expected a tensor of shape {tuple(shape)}, got {got}")
    return value.detach()


def ring_all_reduce(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Rings of several sizes: what comes out, and what was sent."""
    results: Arrays = {}
    for group in inputs["rings"]:
        n, given = len(group), [x.clone() for x in group]

        def program(rank: Rank, given: list[Tensor] = given, n: int = n) -> tuple[Any, ...]:
            x = given[rank.index]
            own, total = _parts(impl(x, rank.index, n, rank.send, rank.receive), "own", "total")
            size = len(x.flatten().tensor_split(n)[rank.index])
            return _tensor(own, "own", [size]), _tensor(total, "total", x.shape)

        found, ranks = on_ranks(n, program)
        totals = [total for _, total in found]
        results |= {
            f"{n} ranks: x left unchanged": given,
            f"{n} ranks: own chunk of each rank": [own for own, _ in found],
            f"{n} ranks: total on each rank": totals,
            f"{n} ranks: all end with the same bits": all(
                torch.equal(total, totals[0]) for total in totals
            ),
            f"{n} ranks: to whom each rank sends": [
                sorted({to for to, _ in rank.sent}) for rank in ranks
            ],
            f"{n} ranks: messages that each sends": [len(rank.sent) for rank in ranks],
            f"{n} ranks: bytes that each sends": [
                sum(size for _, size in rank.sent) for rank in ranks
            ],
        }
    return results


def bucket_timeline(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Buckets and their spans for several models and networks."""
    results: Arrays = {}
    for case in inputs["cases"]:
        sizes, ready_ms = list(case["sizes"]), list(case["ready_ms"])
        network = (case["bucket_bytes"], case["n"], case["latency_ms"], case["bytes_per_ms"])
        buckets, spans = _parts(impl(sizes, ready_ms, *network), "buckets", "spans")
        results |= {
            f"{case['kind']}: arguments left unchanged": [sizes, ready_ms],
            f"{case['kind']}: buckets": _rows(buckets, "buckets", int),
            f"{case['kind']}: start and end of each": _rows(spans, "spans", float),
        }
    return results


def _rows(rows: Any, name: str, kind: type) -> list[list[Any]]:
    """A list of lists or tuples of numbers, as lists of one kind of number."""
    try:
        return [[kind(number) for number in row] for row in rows]
    except (TypeError, ValueError):
        raise ContractError(f"{name}: expected a list of lists of numbers") from None


BILL = ("parameters", "gradients", "optimizer", "sent")


def zero_bill(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """The four figures for every stage and kind of run."""
    results: Arrays = {}
    for case in inputs["cases"]:
        for stage in range(4):
            units = list(case["units"])
            bill = _parts(impl(units, case["frozen"], case["n"], stage, case["m"]), *BILL)
            for name, value in zip(BILL, bill, strict=True):
                if type(value) is not int:
                    kind = type(value).__name__
                    raise ContractError(f"{name}: expected whole bytes, an int; got {kind}")
                results[f"{case['kind']}, stage {stage}: {name}"] = torch.tensor(value)
    return results


WEIGHTS = ("gate_up", "down", "bias")


def parallel_ffn(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Layers on several numbers of ranks: parameters, output, gradients, and what is summed."""
    results: Arrays = {}
    for case in inputs["cases"]:
        n = case["n"]
        weights = [case[name].clone() for name in WEIGHTS]
        stream = case["x"].clone()

        def program(
            rank: Rank,
            weights: list[Tensor] = weights,
            x: Tensor = stream,
            probe: Tensor = case["probe"],
            n: int = n,
        ) -> Arrays:
            return _ffn_on_rank(impl(*weights, rank.index, n, rank.all_reduce), x, probe, rank)

        found, _ = on_ranks(n, program)
        results[f"{n} ranks: weights and x left unchanged"] = [*weights, stream]
        for name in found[0]:
            results[f"{n} ranks: {name}"] = [own[name] for own in found]
    return results


def _ffn_on_rank(layer: Any, stream: Tensor, probe: Tensor, rank: Rank) -> Arrays:
    """One rank's findings, its layer's parameters first."""
    if not isinstance(layer, nn.Module):
        raise ContractError(f"expected an nn.Module, got {type(layer).__name__}")
    own = dict(layer.named_parameters())
    if set(own) != set(WEIGHTS):
        raise ContractError(f"expected the parameters {', '.join(WEIGHTS)}, got {', '.join(own)}")
    x = stream.clone().requires_grad_()
    y = layer(x)
    output = _tensor(y, "the output", x.shape)
    if not y.requires_grad:
        raise ContractError("the output must carry a gradient: is something detached?")
    forward = list(rank.reduced)
    (y * probe).sum().backward()
    gradients = {f"gradient of {name}": _gradient(name, own[name]) for name in WEIGHTS}
    return {
        **{name: own[name].detach() for name in WEIGHTS},
        "bytes that its parameters keep alive": torch.tensor(
            [own[name].untyped_storage().nbytes() for name in WEIGHTS]
        ),
        "output": output,
        "numbers summed forward": forward,
        "numbers summed backward": rank.reduced[len(forward) :],
        "gradient of x": _gradient("x", x),
        **gradients,
    }


def _gradient(name: str, tensor: Tensor) -> Tensor:
    if tensor.grad is None:
        raise ContractError(f"no gradient reaches {name}")
    return tensor.grad


def parallel_cross_entropy(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Losses and gradients on every rank, and how many numbers each handed to the others."""
    results: Arrays = {}
    for case in inputs["cases"]:
        parts = [part.clone() for part in case["parts"]]
        targets, kind = case["targets"].clone(), case["kind"]

        def program(
            rank: Rank,
            parts: list[Tensor] = parts,
            targets: Tensor = targets,
            starts: list[int] = case["starts"],
            vocab_size: int = case["vocab_size"],
        ) -> tuple[Tensor, Tensor]:
            logits = parts[rank.index]
            returned = impl(logits, targets, starts[rank.index], vocab_size, rank.all_reduce)
            losses, gradient = _parts(returned, "losses", "gradient")
            shapes = [len(targets)], logits.shape
            return _tensor(losses, "losses", shapes[0]), _tensor(gradient, "gradient", shapes[1])

        found, ranks = on_ranks(len(parts), program)
        results |= {
            f"{kind}: logits and targets left unchanged": [*parts, targets],
            f"{kind}: losses on each rank": [losses for losses, _ in found],
            f"{kind}: gradient on each rank": [gradient for _, gradient in found],
            f"{kind}: numbers that each hands to all_reduce": [sum(r.reduced) for r in ranks],
        }
    return results


def pipeline_schedule(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Every stage of several pipelines."""
    results: Arrays = {}
    for p, m in inputs["pipelines"]:
        names = "actions", "held", "idle"
        found = [_parts(impl(rank, p, m), *names) for rank in range(p)]
        for name, values in zip(names, zip(*found, strict=True), strict=True):
            results[f"{p} stages, {m} micro-batches: {name} by stage"] = list(values)
    return results


def _step(case: Arrays) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The case's step as a learner may call it; it does its work where it is."""

    def step(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return cast(Tensor, case["step"](weights, x, y))

    return step


def diagnose(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Ask for the diagnosis of several training steps."""
    return {
        f"step {index + 1}": impl(_step(case), case["n"], case["m"])
        for index, case in enumerate(inputs["cases"])
    }


DRIVES: dict[str, Callable[[Any, Arrays], Arrays]] = {
    "ring_all_reduce": ring_all_reduce,
    "bucket_timeline": bucket_timeline,
    "zero_bill": zero_bill,
    "parallel_ffn": parallel_ffn,
    "parallel_cross_entropy": parallel_cross_entropy,
    "pipeline_schedule": pipeline_schedule,
    "diagnose": diagnose,
}
