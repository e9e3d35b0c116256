"""How each exercise of lab 04 is called. Runs beside the student's code: numpy and torch only."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from grader.checks.explain import ContractError
from grader.labs.lab04_qlora.given import Expand, Made, SoftRounding, is_gone

Arrays = dict[str, Any]


def _parts(result: Any, names: str) -> tuple[Any, ...]:
    """The parts of a returned tuple; a sentence instead of an unpacking error."""
    if type(result) is not tuple or len(result) != len(names.split(", ")):
        kind = type(result).__name__
        count = f" of {len(result)}" if type(result) in (list, tuple) else ""
        raise ContractError(f"expected a tuple ({names}), got an object of type {kind}{count}")
    return result


def _tensor(value: Any, name: str, shape: Sequence[int]) -> Tensor:
    if not isinstance(value, Tensor) or tuple(value.shape) != tuple(shape):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ContractError(f"{name}: expected a tensor of shape {tuple(shape)}, got {got}")
    return value


def normal_float(impl: Callable[..., Tensor], inputs: Arrays) -> Arrays:
    """The levels of several widths, with the usual outermost probability and with others."""
    usual = {f"{bits} bits": impl(bits) for bits in inputs["bits"]}
    given = {
        f"{bits} bits, outermost given": impl(bits, outermost)
        for bits, outermost in inputs["given"]
    }
    return usual | given


def pack_weight(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Weights of several shapes, dtypes and block sizes."""
    results: Arrays = {}
    for case in inputs["cases"]:
        given = case["weight"].clone(), case["codes"].clone()
        packed, absmax = _parts(impl(*given, case["block_size"]), "packed, absmax")
        kind = case["kind"]
        results[f"{kind}: weight and codes left unchanged"] = list(given)
        results[f"{kind}: absmax"] = absmax
        results[f"{kind}: packed"] = packed
    return results


def unpack_weight(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """What right packing returns, to float32 and to bfloat16."""
    results: Arrays = {}
    for case in inputs["cases"]:
        given = [case[name].clone() for name in ("packed", "absmax", "codes")]
        shape = tuple(case["shape"])
        for dtype in (torch.float32, torch.bfloat16):
            name = f"{case['kind']}, {str(dtype).removeprefix('torch.')}"
            found = impl(*given, case["block_size"], shape, dtype)
            results[f"{name}: weight"] = _tensor(found, "the weight", shape)
            results[f"{name}: arguments left unchanged"] = [x.clone() for x in given]
    return results


def double_quantize(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Scales of several blocks, of one short block, all equal, and blocks of 256."""
    results: Arrays = {}
    for case in inputs["cases"]:
        given = case["absmax"].clone(), case["table"].clone()
        size = case["block_size"]
        found = impl(*given) if size == 256 else impl(*given, size)
        codes, second, offset, restored = _parts(found, "codes, second, offset, restored")
        kind = case["kind"]
        results[f"{kind}: absmax and table left unchanged"] = list(given)
        results[f"{kind}: offset"] = offset
        results[f"{kind}: second"] = second
        results[f"{kind}: codes"] = codes
        results[f"{kind}: restored"] = restored
    return results


def frozen_product(impl: Any, inputs: Arrays) -> Arrays:
    """Forward and backward in two dtypes, and what lives in between."""
    if not inspect.isclass(impl) or not issubclass(impl, torch.autograd.Function):
        raise ContractError("FrozenProduct: expected a class made of torch.autograd.Function")
    results: Arrays = {}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        found = _product(impl, inputs[name], dtype)
        results |= {f"x of {name}: {key}": value for key, value in found.items()}
    rows, weight = inputs["float32"]["x"].flatten(0, 1), inputs["float32"]["weight"]
    y = cast(Any, impl).apply(rows, Expand(weight))
    results["x of two dimensions: output"] = _tensor(y, "the output", (len(rows), len(weight)))
    return results


def _product(impl: Any, inputs: Arrays, dtype: torch.dtype) -> Arrays:
    weight, probe = inputs["weight"], inputs["probe"].to(dtype)
    expand, made = Expand(weight), Made(2 * weight.numel())
    leaf = inputs["x"].to(dtype).requires_grad_()
    x = leaf * 1
    with made:
        y = _tensor(impl.apply(x, expand), "the output", probe.shape)
    if not y.requires_grad:
        raise ContractError("the output must carry a gradient: is something detached?")
    calls, storage = expand.calls, StorageWeakRef(x.untyped_storage())
    del x
    kept = made.alive()
    x_is_kept = not is_gone(storage)
    [gradient] = torch.autograd.grad(y, [leaf], probe.to(y.dtype), allow_unused=True)
    if gradient is None:
        raise ContractError("no gradient reaches x")
    return {
        "output": y.detach(),
        "gradient of x": gradient,
        "no dense weight lives between the passes": not kept,
        "x is not kept": not x_is_kept,
        "expand: calls in the forward pass": calls,
        "expand: calls in the backward pass": expand.calls - calls,
        "the weight is left unchanged": weight.clone(),
    }


def _leaves(state: Any) -> list[Any]:
    """The four tensors of an optimizer's state, clones."""
    pairs = _parts(state, "m, v")
    parts = [part for pair in pairs for part in _parts(pair, "codes, absmax")]
    return [part.clone() if isinstance(part, Tensor) else part for part in parts]


def adam8bit_update(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """The first step, a later one from a given state, and one with blocks of 256."""
    results: Arrays = {}
    for case in inputs["cases"]:
        grad, tables = case["grad"].clone(), tuple(table.clone() for table in case["tables"])
        state = case["state"]
        options = {} if case["block_size"] == 256 else {"block_size": case["block_size"]}
        settings = case["step"], tables, case["lr"], tuple(case["betas"]), case["eps"]
        found = impl(grad, state, *settings, **options)
        change, after = _parts(found, "change, state")
        kind, held = case["kind"], [] if state is None else _leaves(state)
        results[f"{kind}: arguments left unchanged"] = [grad, *tables, *held]
        results[f"{kind}: change"] = _tensor(change, "the change", grad.shape)
        names = "codes of m", "absmax of m", "codes of v", "absmax of v"
        results |= {f"{kind}: {n}": x for n, x in zip(names, _leaves(after), strict=True)}
    return results


def loftq(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """One round and several, wide and tall weights; factors in forms that know no sign."""
    results: Arrays = {}
    for case in inputs["cases"]:
        weight, quantize = case["weight"].clone(), SoftRounding(case["step"])
        O, I = weight.shape  # noqa: E741
        R, scaling, rounds = case["rank"], case["scaling"], case["rounds"]
        found = _parts(impl(weight, quantize, R, scaling, rounds), "quantized, A, B")
        shapes = (O, I), (R, I), (O, R)
        names = "quantized", "A", "B"
        Q, A, B = (_tensor(*part).detach() for part in zip(found, names, shapes, strict=True))
        kind = case["kind"]
        results[f"{kind}: weight left unchanged"] = weight
        results[f"{kind}: calls of quantize"] = quantize.calls
        results[f"{kind}: quantized"] = Q
        results[f"{kind}: product B A"] = B @ A
        results[f"{kind}: squared lengths of A's rows"] = A.square().sum(1).sort().values
        results[f"{kind}: squared lengths of B's columns"] = B.square().sum(0).sort().values
    return results


PLAN = "base, adapters, gradients, moments, bits"


def memory_plan(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """The plans of several models."""
    results: Arrays = {}
    for number, case in enumerate(inputs["cases"], start=1):
        shapes = [tuple(shape) for shape in case["shapes"]]
        size = case["block_size"]
        options = () if size == 64 else (size,)
        found = _parts(impl(list(shapes), case["others"], case["rank"], *options), PLAN)
        plan = dict(zip(PLAN.split(", "), found, strict=True))
        results |= {f"model {number}: {name}": value for name, value in plan.items()}
    return results


def _layer(case: Arrays) -> Callable[..., tuple[Tensor, Tensor]]:
    """The case's layer as a learner may call it; it does its work where it is."""

    def layer(
        weight: Tensor, lora_A: Tensor, lora_B: Tensor, x: Tensor, y_grad: Tensor
    ) -> tuple[Tensor, Tensor]:
        y, x_grad = case["layer"](weight, lora_A, lora_B, x, y_grad)
        return y, x_grad

    return layer


def diagnose(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Ask for the diagnosis of several layers."""
    return {
        f"layer {index + 1}": impl(_layer(case), case["block_size"])
        for index, case in enumerate(inputs["cases"])
    }


DRIVES: dict[str, Callable[[Any, Arrays], Arrays]] = {
    "normal_float": normal_float,
    "pack_weight": pack_weight,
    "unpack_weight": unpack_weight,
    "double_quantize": double_quantize,
    "frozen_product": frozen_product,
    "adam8bit_update": adam8bit_update,
    "loftq": loftq,
    "memory_plan": memory_plan,
    "diagnose": diagnose,
}
