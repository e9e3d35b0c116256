"""How each exercise of lab 12 is called. Runs beside the student's code: numpy and torch only."""

import json
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from grader.checks.explain import ContractError
from grader.labs.lab12_multi_adapter_serving.given import (
    Service,
    Work,
    parts,
    said,
    tensor,
    whole,
)

Arrays = dict[str, Any]
COSTS = ("adapter_bytes", "fit", "read_ratio", "overhead", "break_even_rank")


def adapter_costs(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Several models and machines."""
    results: Arrays = {}
    for case in inputs["cases"]:
        kind, given = case["kind"], {k: v for k, v in case.items() if k != "kind"}
        found = parts(impl(**given), *COSTS)
        results |= {f"{kind}: {name}": v for name, v in zip(COSTS, found, strict=True)}
    return results


def adapter_manager(impl: Callable[[int], Any], inputs: Arrays) -> Arrays:
    """Sequences of calls: what each gave, and who is there after it."""
    results: Arrays = {}
    for case in inputs["cases"]:
        kind, manager = case["kind"], impl(case["max_adapters"])
        calls, live, draining = [], [], []
        uids: list[int] = []
        for step, (method, *arguments) in enumerate(case["calls"]):
            gave = said(lambda: _call(manager, method, arguments, uids))  # noqa: B023
            if method == "acquire":
                uids.append(int(gave) if gave.isdecimal() else 10**6)
            calls.append(f"{step}: {method}({', '.join(map(repr, arguments))}) gives {gave}")
            live.append(_names(manager.names(), "names"))
            draining.append(_names(manager.draining(), "draining"))
        results |= {
            f"{kind}: what each call gives": calls,
            f"{kind}: names() after each call": live,
            f"{kind}: draining() after each call": draining,
        }
    return results


def _call(manager: Any, method: str, arguments: list[Any], uids: list[int]) -> Any:
    """A call of a method; `release` is told which of the earlier `acquire`s to give back."""
    if method == "release":
        [number] = arguments
        return manager.release(uids[number] if 0 <= number < len(uids) else number)
    return getattr(manager, method)(*arguments)


def _names(value: Any, method: str) -> list[str]:
    if type(value) is not list or any(type(name) is not str for name in value):
        raise ContractError(f"{method}() should return a list of strings")
    return value


def add_grouped(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Mixed batches, in another order too; base rows' bits, and how much work it was."""
    results: Arrays = {}
    for case in inputs["cases"]:
        kind, y, x, slots = case["kind"], case["y"].clone(), case["x"].clone(), case["slots"]
        adapters = [(A.clone(), B.clone(), scaling) for A, B, scaling in case["adapters"]]
        order = case["order"]
        with Work() as work:
            found = tensor(impl(y, x, adapters, slots.clone()), "the result", y.shape)
        shuffled = impl(y[order], x[order], adapters, slots[order])
        most = sum(_multiplications(case, slot) for slot in slots.tolist() if slot)
        used = len(set(slots.tolist()) - {0})
        results |= {
            f"{kind}: y, x and the factors left unchanged": [y, x, *_flat(adapters)],
            f"{kind}: base rows, bit by bit": _bits(found[slots == 0]),
            f"{kind}: rows with adapters": found[slots != 0],
            f"{kind}: in another order": tensor(shuffled, "the result", y.shape)[order.argsort()][
                slots != 0
            ],
            f"{kind}: at most two products an adapter": work.products <= 2 * used,
            f"{kind}: no multiplications for other rows": work.multiplications <= most,
            f"{kind}: nothing larger than x and y is made": work.largest
            <= max(x.numel(), y.numel()),
        }
    return results


def _multiplications(case: Arrays, slot: int) -> int:
    """What one row costs under its adapter."""
    A, B, _ = case["adapters"][slot - 1]
    return int(A.numel() + B.numel())


def _flat(adapters: list[tuple[Tensor, Tensor, float]]) -> list[Tensor]:
    return [factor for A, B, _ in adapters for factor in (A, B)]


def _bits(rows: Tensor) -> Tensor:
    if rows.dtype is not torch.float32:
        raise ContractError(f"the result: expected float32, got {rows.dtype}")
    return rows.contiguous().view(torch.int32)


def fuse_projections(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Three projections and two, with one of them left alone."""
    results: Arrays = {}
    for case in inputs["cases"]:
        kind, widths = case["kind"], list(case["widths"])
        given = [None if p is None else (p[0].clone(), p[1].clone(), p[2]) for p in case["parts"]]
        R, I = sum(len(p[0]) for p in given if p is not None), case["x"].shape[1]  # noqa: E741
        A, B, blocks = parts(impl(given, widths), "A", "B", "blocks")
        A, B = tensor(A, "A", (R, I)), tensor(B, "B", (sum(widths), R))
        results |= {
            f"{kind}: factors left unchanged": _flat([p for p in given if p is not None]),
            f"{kind}: A": A,
            f"{kind}: B": B,
            f"{kind}: blocks": _blocks(blocks, len(widths)),
            f"{kind}: x A^T B^T": case["x"] @ A.T @ B.T,
        }
    return results


def _blocks(blocks: Any, count: int) -> Tensor:
    if type(blocks) is not list or len(blocks) != count:
        raise ContractError(f"blocks should be a list of {count} tuples, one a projection")
    names = ("r0", "r1", "o0", "o1")
    rows = [[whole(n, "blocks") for n in parts(block, *names)] for block in blocks]
    return torch.tensor(rows)


def plan_batches(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Several loads: when each batch starts, and whose requests it has."""
    results: Arrays = {}
    for case in inputs["cases"]:
        kind, given = case["kind"], {k: v for k, v in case.items() if k != "kind"}
        lists = list(given.pop("arrivals_ms")), list(given.pop("adapters"))
        starts, batches = [], []
        for batch in _list(impl(*lists, **given), "the batches"):
            start, requests = parts(batch, "start_ms", "requests")
            starts.append(whole(start, "start_ms"))
            batches.append([whole(n, "a request") for n in _list(requests, "requests")])
        rows = [[number, n] for number, batch in enumerate(batches) for n in batch]
        results |= {
            f"{kind}: arguments left unchanged": [*lists],
            f"{kind}: every request is in one batch": sorted(n for _, n in rows)
            == [*range(len(case["arrivals_ms"]))],
            f"{kind}: requests of each batch": _lines(batches),
            f"{kind}: start of each batch": torch.tensor(starts),
        }
    return results


def _list(value: Any, name: str) -> list[Any]:
    if type(value) is not list:
        raise ContractError(f"{name}: expected a list, got an object of {type(value).__name__}")
    return value


def _lines(batches: list[list[int]]) -> list[str]:
    return [f"batch {number}: {batch}" for number, batch in enumerate(batches)]


def handle(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Requests of every kind to one service after another: status, body, and what is left."""
    results: Arrays = {}
    for case in inputs["cases"]:
        service = Service(case["live"], case["draining"], case["room"])
        request = {name: case[name] for name in ("method", "path", "body")}
        status, body = parts(impl(dict(request), service), "status", "body")
        kind = case["kind"]
        results |= {
            f"{kind}: status": f"{request['method']} {request['path']}: {said(lambda: status)}",  # noqa: B023
            f"{kind}: body": _flattened(body),
            f"{kind}: no request is left counted": not any(service.running.values()),
            f"{kind}: names afterwards": service.names(),
        }
    return results


def _flattened(body: Any) -> list[str]:
    """Each leaf with its place, so that a finding names one; of a stream, chunk by chunk."""
    if type(body) is dict:
        return _leaves(_plain(body), "body")
    lines = []
    for number, chunk in enumerate(_list(body, "the body, which is no dict")):
        if type(chunk) is not str or not chunk.startswith("data: ") or not chunk.endswith("\n\n"):
            raise ContractError(f"chunk {number} should be a string: data: ... and an empty line")
        text = chunk[len("data: ") : -2]
        if text == "[DONE]":
            lines.append(f"chunk {number} is [DONE]")
            continue
        try:
            value = json.loads(text)
        except ValueError:
            raise ContractError(f"chunk {number} holds no JSON") from None
        lines += _leaves(value, f"chunk {number}")
    return lines


def _plain(body: dict[Any, Any]) -> Any:
    try:
        return json.loads(json.dumps(body))
    except (TypeError, ValueError, RecursionError):
        raise ContractError("the body cannot be written as JSON") from None


def _leaves(value: Any, place: str) -> list[str]:
    if type(value) in (dict, list) and value:
        items = sorted(value.items()) if type(value) is dict else enumerate(value)
        return [line for key, item in items for line in _leaves(item, f"{place}.{key}")]
    if place.endswith("error.message"):
        return [f"{place} is {'a sentence' if type(value) is str and value else 'missing'}"]
    return [f"{place} = {json.dumps(value)}"]


def _server(case: Arrays) -> Callable[[list[Any]], list[Tensor]]:
    """The case's server as a learner may call it; it does its work where it is."""

    def server(script: list[Any]) -> list[Tensor]:
        return cast(list[Tensor], case["server"](script))

    return server


def diagnose(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Ask for the diagnosis of several servers."""
    return {
        f"server {index + 1}": impl(_server(case), case["width"])
        for index, case in enumerate(inputs["cases"])
    }


DRIVES: dict[str, Callable[[Any, Arrays], Arrays]] = {
    "adapter_costs": adapter_costs,
    "adapter_manager": adapter_manager,
    "add_grouped": add_grouped,
    "fuse_projections": fuse_projections,
    "plan_batches": plan_batches,
    "handle": handle,
    "diagnose": diagnose,
}
