"""Wrong implementations of lab 15 that a check must tell from a right one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from grader.labs.lab15_quantization import reference


def _affine(
    *, steps_off: int = 0, holds_zero: bool = True, zero: bool = True, float32: bool = True
) -> Callable[[Tensor, int, int], tuple[Tensor, Tensor, Tensor]]:
    """A group quantizer with one of four faults."""

    def quantize(weight: Tensor, bits: int, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
        O, I = weight.shape  # noqa: E741
        if I % group_size:
            raise ValueError(f"group_size={group_size} does not divide {I}")
        groups = weight.reshape(O, -1, group_size)
        groups = groups.float() if float32 else groups
        low, high = groups.amin(-1), groups.amax(-1)
        if holds_zero:
            low, high = low.clamp(max=0), high.clamp(min=0)
        scale = (high - low) / (2**bits - 1 + steps_off)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        zeros = (-low / scale).round().clamp(0, 2**bits - 1) if zero else torch.zeros_like(low)
        codes = (groups / scale[..., None]).round() + zeros[..., None]
        codes = codes.clamp(0, 2**bits - 1).to(torch.uint8).reshape(O, I)
        return codes, scale.float(), zeros.to(torch.uint8)

    return quantize


def _whole_rows(weight: Tensor, bits: int, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    groups = weight.shape[1] // group_size
    codes, scale, zero = reference.quantize_groups(weight, bits, weight.shape[1])
    return codes, scale.repeat(1, groups), zero.repeat(1, groups)


def _one_code_a_byte(codes: Tensor, bits: int) -> Tensor:
    return codes.clone()


def _per_byte(codes: Tensor, bits: int) -> Tensor:
    """As many whole codes as fit into each byte: wastes bits where the width is no divisor of 8."""
    each = 8 // bits
    padded = torch.cat((codes, codes.new_zeros(-len(codes) % each))).view(-1, each)
    shifts = bits * torch.arange(each)
    return (padded.int() << shifts).sum(1).to(torch.uint8)


def _high_first(codes: Tensor, bits: int) -> Tensor:
    bit = (codes.int()[:, None] >> torch.arange(bits - 1, -1, -1)) & 1
    stream = bit.flatten()
    stream = torch.cat((stream, stream.new_zeros(-len(stream) % 8))).view(-1, 8)
    return (stream << torch.arange(7, -1, -1)).sum(1).to(torch.uint8)


def _loses_the_end(codes: Tensor, bits: int) -> Tensor:
    return reference.pack_codes(codes, bits)[: len(codes) * bits // 8]


def _encode(
    *, floor: bool = False, whole: bool = False, nan: bool = False, dense: bool = False
) -> Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]:
    """A codebook encoder with one of four faults."""

    def encode(weight: Tensor, levels: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
        flat = weight.reshape(-1)
        blocks = torch.cat((flat, flat.new_zeros(-len(flat) % block_size))).view(-1, block_size)
        largest = blocks.abs().amax(1)
        scale = torch.full_like(largest, float(largest.max())) if whole else largest
        divisor = scale if nan else scale.clamp(min=1e-30)
        unit = (blocks / divisor[:, None]).flatten()[: len(flat)]
        if dense:
            codes = (unit[:, None] - levels).abs().argmin(1)
        elif floor:
            codes = torch.bucketize(unit, levels, right=True) - 1
        else:
            codes = torch.bucketize(unit, (levels[1:] + levels[:-1]) / 2)
        return codes.to(torch.uint8), scale

    return encode


def _repair(
    *, sign: float = 1.0, divide: bool = True, free_only: bool = True
) -> Callable[[Tensor, Tensor, int, Tensor], Tensor]:
    """GPTQ's step with one of three faults."""

    def step(weight: Tensor, hessian: Tensor, column: int, rounded: Tensor) -> Tensor:
        start = column if free_only else 0
        inverse = torch.linalg.inv(hessian[start:, start:])[column - start :, column - start :]
        delta = rounded - weight[:, column]
        result = weight.clone()
        move = inverse[0] / (inverse[0, 0] if divide else 1.0)
        result[:, column:] += sign * delta[:, None] * move
        result[:, column] = rounded
        return result

    return step


def _moves_earlier(weight: Tensor, hessian: Tensor, column: int, rounded: Tensor) -> Tensor:
    inverse: Tensor = torch.linalg.inv(hessian)
    delta = rounded - weight[:, column]
    return weight + delta[:, None] * inverse[column] / inverse[column, column]


def _only_rounds(weight: Tensor, hessian: Tensor, column: int, rounded: Tensor) -> Tensor:
    result = weight.clone()
    result[:, column] = rounded
    return result


def _repair_in_place(weight: Tensor, hessian: Tensor, column: int, rounded: Tensor) -> Tensor:
    return weight.copy_(reference.repair(weight, hessian, column, rounded))


def _choose(scores: Tensor, n: int, m: int) -> Tensor:
    keep = torch.zeros_like(scores, dtype=torch.bool).reshape(-1, m)
    keep.scatter_(1, scores.reshape(-1, m).argsort(1)[:, m - n :], True)
    return keep.reshape(scores.shape)


def _magnitude(weight: Tensor, x: Tensor, n: int, m: int) -> Tensor:
    return _choose(weight.abs(), n, m)


def _mean_magnitude(weight: Tensor, x: Tensor, n: int, m: int) -> Tensor:
    return _choose(weight.abs() * x.abs().mean(0), n, m)


def _signed(weight: Tensor, x: Tensor, n: int, m: int) -> Tensor:
    return _choose(weight * x.norm(dim=0), n, m)


def _threshold(weight: Tensor, x: Tensor, n: int, m: int) -> Tensor:
    scores = (weight.abs() * x.norm(dim=0)).reshape(-1, m)
    least: Tensor = scores.topk(n, dim=1).values[:, -1:]
    kept: Tensor = scores >= least
    return kept.reshape(weight.shape)


def _drops_n(weight: Tensor, x: Tensor, n: int, m: int) -> Tensor:
    return reference.wanda_mask(weight, x, m - n, m)


def _takes(order: tuple[str, ...], instead: str) -> Callable[..., str]:
    """A diagnosis that knows only some of the faults and takes the others for one answer."""

    def diagnose(quantize: Any, group_size: int) -> str:
        answer = reference.diagnose(quantize, group_size)
        return answer if answer in order else instead

    return diagnose


def _random_probe(quantize: Any, group_size: int) -> str:
    """Looks at one error on random weights."""
    weight = torch.randn(2 * group_size, 3 * group_size, generator=torch.Generator().manual_seed(0))
    error = float((quantize(weight) - weight).abs().max())
    return "healthy" if error < 0.3 else "wrong_axis" if error < 1 else "codes_wrapped"


ALL = ("codes_wrapped", "zero_clipped", "wrong_axis", "groups_mixed")

MUTANTS: dict[str, dict[str, Any]] = {
    "quantize_groups": {
        "2^bits steps": _affine(steps_off=1),
        "grid without zero": _affine(holds_zero=False),
        "no zero point": _affine(zero=False),
        "scales made in bfloat16": _affine(float32=False),
        "one scale a row": _whole_rows,
    },
    "pack_codes": {
        "one code a byte": _one_code_a_byte,
        "whole codes in each byte": _per_byte,
        "highest bit first": _high_first,
        "last byte lost": _loses_the_end,
    },
    "encode_codebook": {
        "rounds down": _encode(floor=True),
        "one scale for all": _encode(whole=True),
        "divides zeros by zero": _encode(nan=True),
        "compares with all levels at once": _encode(dense=True),
    },
    "repair": {
        "wrong sign": _repair(sign=-1.0),
        "not divided by the diagonal": _repair(divide=False),
        "inverse over all columns": _repair(free_only=False),
        "moves earlier columns": _moves_earlier,
        "only rounds": _only_rounds,
        "changes the weight in place": _repair_in_place,
    },
    "wanda_mask": {
        "magnitude": _magnitude,
        "mean magnitude of inputs": _mean_magnitude,
        "sign kept": _signed,
        "threshold keeps all ties": _threshold,
        "drops n, keeps m - n": _drops_n,
    },
    "diagnose": {
        "never tries negative weights": _takes(
            tuple(f for f in ALL if f != "zero_clipped"), "healthy"
        ),
        "one group a row": _takes(ALL[:3], "healthy"),
        "takes columns for groups": _takes(
            tuple(f for f in ALL if f != "wrong_axis"), "groups_mixed"
        ),
        "one random probe": _random_probe,
    },
}
