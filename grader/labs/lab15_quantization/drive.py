"""How each exercise of lab 15 is called. Runs beside the student's code: numpy and torch only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
import torch._dynamo  # a dispatch mode imports it: 0.6 s that are not the student's
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from grader.checks.explain import ContractError

Arrays = dict[str, Any]
Quantizer = Callable[[Tensor], Tensor]


def _parts(result: Any, names: Sequence[str]) -> dict[str, Any]:
    """The returned tuple by name; a sentence instead of an unpacking error."""
    if type(result) is not tuple or len(result) != len(names):
        raise ContractError(f"expected a tuple of {len(names)}: {', '.join(names)}")
    return dict(zip(names, result, strict=True))


def quantize_groups(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Quantize weights of several kinds, then one that the groups do not fit."""
    results: Arrays = {}
    for case in inputs["cases"]:
        kind, weight = case["kind"], case["weight"].clone()
        returned = impl(weight, case["bits"], case["group_size"])
        results[f"{kind} weight left unchanged"] = weight
        for name, value in _parts(returned, ("codes", "scale", "zero_point")).items():
            results[f"{name} of the {kind} weight"] = value
    results["a group size that does not divide I raises ValueError naming both"] = _refuses(impl)
    return results


def _refuses(impl: Callable[..., Any]) -> bool:
    try:
        impl(torch.ones(3, 26), 4, 11)
    except ValueError as error:
        return "11" in str(error) and "26" in str(error)
    return False


def pack_codes(impl: Callable[..., Tensor], inputs: Arrays) -> Arrays:
    """Pack codes of several widths, among them numbers that do not fill the last byte."""
    results: Arrays = {}
    for case in inputs["cases"]:
        codes, bits = case["codes"].clone(), case["bits"]
        packed = impl(codes, bits)
        results[f"{bits}-bit codes left unchanged"] = codes
        results[f"{len(codes)} codes of {bits} bits"] = packed
    return results


class _Largest(TorchDispatchMode):
    """Watches the size of every tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.numel = max(self.numel, value.numel())
        return result


def encode_codebook(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Encode a weight whose last block is short and which has a block of zeros."""
    weight, levels = inputs["weight"].clone(), inputs["levels"].clone()
    with _Largest() as largest:
        returned = impl(weight, levels, inputs["block_size"])
    parts = _parts(returned, ("codes", "largest"))
    return {
        "weight left unchanged": weight,
        "no tensor of weights times levels was built": largest.numel < 5 * weight.numel(),
        "largest magnitude of every block": parts["largest"],
        "codes": parts["codes"],
    }


def repair(impl: Callable[..., Tensor], inputs: Arrays) -> Arrays:
    """Repair after the first, a middle and the last column."""
    weight, hessian = inputs["weight"], inputs["hessian"]
    results: Arrays = {}
    for place, column in inputs["columns"].items():
        mine, moment = weight.clone(), hessian.clone()
        repaired = impl(mine, moment, column, inputs["rounded"].clone())
        results[f"{place} column: arguments left unchanged"] = [mine, moment]
        results[f"{place} column: repaired weight"] = repaired
    return results


def wanda_mask(impl: Callable[..., Tensor], inputs: Arrays) -> Arrays:
    """Mask a weight; then one whose scores are all equal, where only the counts are looked at."""
    n, m = inputs["pattern"]
    weight, x = inputs["weight"].clone(), inputs["x"].clone()
    mask = impl(weight, x, n, m)
    tied = impl(torch.ones_like(weight), torch.ones_like(x), n, m)
    if not isinstance(tied, Tensor) or tied.shape != weight.shape:
        raise ContractError("expected a bool tensor of the weight's shape (O, I)")
    return {
        "arguments left unchanged": [weight, x],
        "mask": mask,
        "weights kept of every m where all scores are equal": tied.reshape(-1, m).sum(1),
    }


def _quantizer(case: Arrays) -> Quantizer:
    """The case's quantizer as a learner may call it; it does its work where it is."""

    def quantize(weight: Tensor) -> Tensor:
        return cast(Tensor, case["quantize"](weight))

    return quantize


def diagnose(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Ask for the diagnosis of several quantizers."""
    return {
        f"quantizer {index}": impl(_quantizer(case), case["group_size"])
        for index, case in enumerate(inputs["cases"])
    }


DRIVES: dict[str, Callable[[Any, Arrays], Arrays]] = {
    "quantize_groups": quantize_groups,
    "pack_codes": pack_codes,
    "encode_codebook": encode_codebook,
    "repair": repair,
    "wanda_mask": wanda_mask,
    "diagnose": diagnose,
}
