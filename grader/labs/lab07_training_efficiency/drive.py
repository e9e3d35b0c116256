"""How each exercise of lab 07 is called. Runs beside the student's code: numpy and torch only."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch._dynamo  # the first optimizer imports it: 2 s that are not the student's
from torch import Tensor, nn

from grader.checks.explain import ContractError
from grader.labs.lab07_training_efficiency.given import Bigram, Numbers, Segment, SlowMemory

Arrays = dict[str, Any]
State = tuple[Tensor, ...]
STATE = ("the maximum", "the sum of exponentials", "the weighted values")


def _parts(result: Any, names: Sequence[str]) -> tuple[Any, ...]:
    """The parts of a returned tuple; a sentence instead of an unpacking error."""
    if type(result) is not tuple or len(result) != len(names):
        kind, wanted = type(result).__name__, ", ".join(names)
        raise ContractError(f"expected a tuple ({wanted}), got an object of type {kind}")
    return result


def _tensor(value: Any, name: str, shape: Sequence[int]) -> Tensor:
    if not isinstance(value, Tensor) or tuple(value.shape) != tuple(shape):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ContractError(f"{name}: expected a tensor of shape {tuple(shape)}, got {got}")
    return value


def _trains(value: Tensor, name: str) -> Tensor:
    if not value.requires_grad:
        raise ContractError(f"{name} must carry a gradient: is something detached, or a number?")
    return value


def _copies(inputs: Arrays, names: Sequence[str]) -> list[Tensor]:
    return [inputs[name].clone() for name in names]


def merge_states(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Two tiles, all in order, all as a tree, and the attention that follows."""
    given = [tuple(x.clone() for x in state) for state in inputs["states"]]

    def merge(first: State, second: State) -> State:
        found = _parts(impl(first, second), ("top", "norm", "total"))
        named = zip(found, STATE, shapes, strict=True)
        return tuple(_tensor(x, name, shape) for x, name, shape in named)

    shapes = [x.shape for x in given[0]]
    two = merge(given[0], given[1])
    in_order = merge(merge(two, given[2]), given[3])
    tree = merge(two, merge(given[2], given[3]))
    seen = slice(1, None)  # row 0 sees no key
    return {
        "the two states left unchanged": [x for state in given for x in state],
        **{f"two tiles: {name}": x[seen] for name, x in zip(STATE, two, strict=True)},
        **{f"no key in either: {name}": x[:1] for name, x in zip(STATE, two, strict=True)},
        **{f"four tiles in order: {name}": x for name, x in zip(STATE, in_order, strict=True)},
        **{f"pairs of tiles, then both: {name}": x for name, x in zip(STATE, tree, strict=True)},
        "attention of the four": in_order[2][seen] / in_order[1][seen, None],
    }


def tiled_attention(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Outputs, log-sum-exps, and which tiles were brought."""
    results: Arrays = {}
    for case in inputs["cases"]:
        q, (block_q, block_k) = case["q"].clone(), case["blocks"]
        memory = SlowMemory(case["k"], case["v"], block_k)
        with Numbers(0, q, case["k"], case["v"]) as numbers:
            found = impl(q, memory.load, len(case["k"]), block_q, block_k)
        out, lse = _parts(found, ("out", "lse"))
        kind = case["kind"]
        results[f"{kind}: q left unchanged"] = q
        results[f"{kind}: output"] = _tensor(out, "the output", q.shape)
        results[f"{kind}: log-sum-exp"] = _tensor(lse, "the log-sum-exp", q.shape[:1])
        results[f"{kind}: tiles that were loaded"] = sorted(memory.loads)
    results["many keys: fewer numbers live at a time than k has"] = (
        numbers.most_alive < inputs["cases"][-1]["k"].numel()
    )
    return results


def tile_gradients(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Every tile of an attention by itself, and what the tiles add up to."""
    names = ("q", "k", "v", "hidden", "out", "lse", "d_out")
    given = _copies(inputs, names)
    q, k, v, hidden, out, lse, d_out = given
    height, width = inputs["rows"]
    sums = [torch.zeros_like(x) for x in (q, k, v)]
    tiles: list[list[Tensor]] = [[], [], []]
    for top in range(0, len(q), height):
        for left in range(0, len(k), width):
            i, j = slice(top, top + height), slice(left, left + width)
            found = _parts(
                impl(q[i], k[j], v[j], hidden[i, j], out[i], lse[i], d_out[i]), ("dq", "dk", "dv")
            )
            for which, (x, part, place) in enumerate(zip(found, (q, k, v), (i, j, j), strict=True)):
                tiles[which].append(_tensor(x, ("dq", "dk", "dv")[which], part[place].shape))
                sums[which][place] += x
    return {
        "arguments left unchanged": given,
        **{
            f"each tile: {n}": x
            for n, x in zip(("dv", "dq", "dk"), tiles[2:] + tiles[:2], strict=True)
        },
        **{f"all tiles together: {n}": x for n, x in zip(("dq", "dk", "dv"), sums, strict=True)},
    }


def checkpoint(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Two segments one behind the other, of an input that trains and of one that does not."""
    results: Arrays = {}
    for kind, trains in (("x trains", True), ("x does not train", False)):
        x = inputs["x"].clone().requires_grad_(trains)
        segments = [Segment(weights) for weights in inputs["segments"]]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(inputs["seed"])
            y = x
            for segment in segments:
                y = _tensor(impl(segment, y, tuple(segment.weights)), "the result", x.shape)
            after_forward = torch.rand(3)
            wanted = [w for s in segments for w in (s.weights[0], s.weights[2])]
            wanted += [x] if trains else []
            found = torch.autograd.grad(
                _trains(y, f"{kind}: the result"),
                wanted,
                inputs["d_out"].clone(),
                allow_unused=True,
            )
            after_backward = torch.rand(3)
        gradients = [
            torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)
        ]
        fields = [leaf.grad is None for leaf in (x, *(w for s in segments for w in s.weights))]
        results |= {
            f"{kind}: result": y.detach(),
            f"{kind}: random numbers drawn after the forward pass": after_forward,
            f"{kind}: gradients on in each run of the first segment": segments[0].gradients_on,
            f"{kind}: gradients on in each run of the second segment": segments[1].gradients_on,
            f"{kind}: gradients of the parameters": gradients[:4],
            f"{kind}: gradient of x": gradients[4:],
            f"{kind}: no .grad was written": fields,
            f"{kind}: random numbers drawn after the backward pass": after_backward,
        }
    return results


def _step(
    impl: Callable[..., Any], parameters: list[Tensor], optimizer: Any, *settings: Any
) -> tuple[bool, float, int]:
    found = impl(parameters, optimizer, *settings)
    skipped, scale, steps = _parts(found, ("skipped", "scale", "finite_steps"))
    if type(skipped) is not bool or type(scale) is not float or type(steps) is not int:
        kinds = ", ".join(type(value).__name__ for value in found)
        raise ContractError(f"expected a bool, a float and an int, got {kinds}")
    if not scale > 0:
        raise ContractError(f"the scale must stay above 0, got {scale}")
    return skipped, scale, steps


def scaled_step(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """A run of steps, some of which overflow, and one at the largest scale there is."""
    parameters: list[Tensor] = [nn.Parameter(w.clone()) for w in inputs["weights"]]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    clip_norm, interval = inputs["clip_norm"], inputs["growth_interval"]
    scale, finite_steps = inputs["scale"], 0
    path: list[tuple[bool, float, int]] = []
    weights, cleared = [], []
    for gradients in inputs["steps"]:
        for parameter, gradient in zip(parameters[:3], gradients, strict=True):
            parameter.grad = gradient * scale
        done = _step(impl, parameters, optimizer, scale, finite_steps, clip_norm, interval)
        _, scale, finite_steps = done
        path.append(done)
        weights.append([parameter.detach().clone() for parameter in parameters])
        cleared.append(all(parameter.grad is None for parameter in parameters))
    parameters[0].grad = inputs["steps"][0][0] * 2.0**127
    top = _step(impl, parameters, optimizer, 2.0**127, 0, clip_norm, 1)
    return {
        "which steps were skipped": [skipped for skipped, _, _ in path],
        "weights after the first step": weights[0],
        "weights after each step": weights,
        "the scale after each step": [found for _, found, _ in path],
        "finite steps in a row": [found for _, _, found in path],
        "gradients are cleared": cleared,
        "a scale of 2**127 that would grow": list(top),
    }


def accumulate(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """The micro-batches of one process alone, and as one process of several."""
    results: Arrays = {}
    given = [(ids.clone(), labels.clone()) for ids, labels in inputs["batches"]]
    for kind, ranks in (("alone", 1), ("one of several ranks", inputs["ranks"])):
        model = Bigram(inputs["embedding"], inputs["head"])
        here = sum(int(pair[1][:, 1:].ne(-100).sum()) for pair in given)
        options = {} if ranks == 1 else {"total": here + inputs["elsewhere"], "ranks": ranks}
        nats, tokens = _parts(impl(model, given, **options), ("nats", "tokens"))
        if type(nats) is not float or type(tokens) is not int:
            kinds = f"{type(nats).__name__} and {type(tokens).__name__}"
            raise ContractError(f"expected a float and an int, got {kinds}")
        zero = torch.zeros_like(inputs["head"])
        results |= {
            f"{kind}: forward and backward passes": model.passes,
            f"{kind}: predicted tokens": tokens,
            f"{kind}: summed loss": nats,
            f"{kind}: gradients": [zero if p.grad is None else p.grad for p in model.parameters()],
        }
    return {"ids and labels left unchanged": [x for pair in given for x in pair], **results}


def chunked_loss(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Loss, gradients under a factor, the memory of it; a frozen weight; no targets at all."""
    hidden, weight, targets = _copies(inputs, ("hidden", "weight", "targets"))
    rows, limit = inputs["chunk_rows"], inputs["most_numbers"]
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    with Numbers(len(weight), weight, hidden, targets) as numbers:
        loss = _trains(_tensor(impl(hidden, weight, targets, rows), "the loss", ()), "the loss")
        gradients = torch.autograd.grad(inputs["factor"] * loss, leaves)
    frozen = weight.detach()
    with Numbers(len(weight), frozen, hidden, targets) as lean:
        again = _trains(_tensor(impl(hidden, frozen, targets, rows), "the loss", ()), "the loss")
        [alone] = torch.autograd.grad(again, [hidden])
    nothing = impl(hidden, weight, torch.full_like(targets, -100), rows)
    return {
        "arguments left unchanged": [hidden.detach(), weight.detach(), targets],
        "loss": loss.detach(),
        "rows of scores at a time: at most chunk_rows": numbers.most_rows <= rows,
        "numbers that live at a time: fewer than half of N V": numbers.most_alive < limit,
        "gradient of hidden": gradients[0],
        "gradient of weight": gradients[1],
        "frozen weight: loss": again.detach(),
        "frozen weight: gradient of hidden": alone,
        "frozen weight: nothing as large as it is made": not lean.as_weight,
        "no target: loss": _tensor(nothing, "the loss", ()).detach(),
    }


def _mystery(case: Arrays) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The case's step as a learner may call it; it does its work where it is."""

    def step(weights: Tensor, gradients: Tensor, counted: Tensor) -> Tensor:
        return cast(Tensor, case["step"](weights, gradients, counted))

    return step


def diagnose(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Ask for the diagnosis of several steps."""
    return {
        f"step {index + 1}": impl(_mystery(case), case["clip"], case["exponent"])
        for index, case in enumerate(inputs["cases"])
    }


DRIVES: dict[str, Callable[[Any, Arrays], Arrays]] = {
    "merge_states": merge_states,
    "tiled_attention": tiled_attention,
    "tile_gradients": tile_gradients,
    "checkpoint": checkpoint,
    "scaled_step": scaled_step,
    "accumulate": accumulate,
    "chunked_loss": chunked_loss,
    "diagnose": diagnose,
}
