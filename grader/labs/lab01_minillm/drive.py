"""How each exercise of lab 01 is called. Runs beside the student's code: numpy and torch only."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from torch import Tensor

from grader.checks.explain import ContractError
from grader.labs.lab01_minillm.given import Parts

Arrays = dict[str, Any]


def _tensor(value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise ContractError(f"expected a tensor, got an object of type {type(value).__name__}")
    return value.detach()


def _parts(result: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """The returned tuple by name; a sentence instead of an unpacking error."""
    if type(result) is not tuple or len(result) != len(names):
        raise ContractError(f"expected a tuple of {len(names)}: {', '.join(names)}")
    return dict(zip(names, result, strict=True))


def rms_norm(impl: Callable[..., Tensor], inputs: Arrays) -> Arrays:
    """Normalise in three data types."""
    results: Arrays = {}
    for case in inputs["cases"]:
        kind, x, weight = case["kind"], case["x"].clone(), case["weight"].clone()
        output = _tensor(impl(x, weight, inputs["eps"]))
        results[f"{kind}: x and weight left unchanged"] = [x, weight]
        results[f"{kind}: output"] = output
    return results


def rope(impl: Callable[..., Tensor], inputs: Arrays) -> Arrays:
    """Rotate whole heads, a part of each, and numbers of half precision."""
    results: Arrays = {}
    for case in inputs["cases"]:
        kind, x, positions = case["kind"], case["x"].clone(), inputs["positions"].clone()
        options = {} if case["rotary_width"] is None else {"rotary_width": case["rotary_width"]}
        output = _tensor(impl(x, positions, inputs["theta"], **options))
        results[f"{kind}: x and positions left unchanged"] = [x, positions]
        results[f"{kind}: output"] = output
    return results


def grouped_attention(impl: Callable[..., Tensor], inputs: Arrays) -> Arrays:
    """Attend under every kind of mask."""
    results: Arrays = {}
    for case in inputs["cases"]:
        q, k, v = (case[name].clone() for name in "qkv")
        (_, H, T, _), (_, G, S, _) = q.shape, k.shape
        output = _tensor(impl(q, k, v, **case["options"]))
        name = f"{case['kind']} (H={H}, G={G}, T={T}, S={S}{_said(case['options'])})"
        results[f"{name}: q, k and v left unchanged"] = [q, k, v]
        results[f"{name}: output"] = output
    return results


def _said(options: Arrays) -> str:
    return "".join(f", {name}={value}" for name, value in options.items())


def block(impl: Callable[..., Tensor], inputs: Arrays) -> Arrays:
    """Run a layer of either kind around stand-ins for norm, rotation and attention."""
    results: Arrays = {}
    parts = Parts(inputs)
    for kind, options in (("pre-norm", {}), ("post-norm", {"post_norm": True})):
        x, weights = inputs["x"].clone(), {n: w.clone() for n, w in inputs[kind].items()}
        given = inputs["head_width"], parts.norm, parts.rotate, parts.attend
        output = _tensor(impl(x, weights, *given, **options))
        results[f"{kind}: x and weights left unchanged"] = [x, *weights.values()]
        results[f"{kind}: output"] = output
    return results


def predict_size(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Count several models."""
    results: Arrays = {}
    for case in inputs["cases"]:
        moe = None if case["moe"] is None else SimpleNamespace(**case["moe"])
        config = SimpleNamespace(**case["config"], moe=moe)
        names = ("parameters", "active parameters", "GFLOP of a token")
        for name, value in _parts(impl(config, case["context"]), names).items():
            results[f"{case['kind']}: {name}"] = value
    return results


def dispatch(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Route under several capacities; differentiate through the weights."""
    results: Arrays = {}
    for case in inputs["cases"]:
        kind, logits = case["kind"], case["logits"].clone().requires_grad_()
        names = ("slots", "gates", "dropped")
        found = _parts(impl(logits, case["top_k"], case["capacity"]), names)
        results[f"{kind}: logits left unchanged"] = logits.detach().clone()
        for name in ("dropped", "slots", "gates"):
            results[f"{kind}: {name}"] = _tensor(found[name])
        results[f"{kind}: the gradient of the logits"] = _gradient(logits, found["gates"], case)
    return results


def _gradient(logits: Tensor, gates: Tensor, case: Arrays) -> Tensor:
    if not gates.requires_grad:
        raise ContractError(
            "no gradient reaches the logits through gates: is something detached, or are the "
            "weights taken out of their tensor as plain numbers?"
        )
    if gates.shape == case["probe"].shape:  # otherwise the comparison of gates says so
        (gates * case["probe"]).sum().backward()
    return logits.detach() if logits.grad is None else logits.grad


class Layer:
    """A colleague's norm and attention; both do their work where they are."""

    def __init__(self, case: Arrays) -> None:
        self.head_width, self.theta = case["head_width"], case["theta"]
        self._norm, self._attend = case["norm"], case["attend"]

    def norm(self, x: Tensor) -> Tensor:
        """Map (T, D) to (T, D)."""
        return cast(Tensor, self._norm(x))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Tensor:
        """Map q (H, T, K), k and v (G, T, K) and positions (T,) to (H, T, K)."""
        return cast(Tensor, self._attend(q, k, v, positions))


def diagnose(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Ask for the diagnosis of several layers."""
    return {f"layer {index}": impl(Layer(case)) for index, case in enumerate(inputs["cases"])}


DRIVES: dict[str, Callable[[Any, Arrays], Arrays]] = {
    "rms_norm": rms_norm,
    "rope": rope,
    "grouped_attention": grouped_attention,
    "block": block,
    "predict_size": predict_size,
    "dispatch": dispatch,
    "diagnose": diagnose,
}
