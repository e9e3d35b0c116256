"""labkit's formats and methods in the shapes that lab 15's exercises ask for."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from labkit.compression import gptq, pruning, statistics
from labkit.quant import affine, nf4, packing


def _config(bits: int, group_size: int) -> affine.AffineConfig:
    return affine.AffineConfig(bits=bits, granularity="group", group_size=group_size)


def quantize_groups(weight: Tensor, bits: int, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scales and integer zero points of groups along a row."""
    found = affine.quantize(weight, _config(bits, group_size))
    assert found.zero_point is not None
    return found.codes, found.scale, found.zero_point


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """One stream of bits, each code's lowest bit first."""
    return packing.pack_bits(codes, bits)


def encode_codebook(weight: Tensor, levels: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """The nearest level of every weight, divided by its block's largest magnitude."""
    found = nf4.quantize_codebook(weight, levels, block_size)
    assert isinstance(found.scales, Tensor)
    return packing.unpack_int4(found.packed, (weight.numel(),)), found.scales


def repair(weight: Tensor, hessian: Tensor, column: int, rounded: Tensor) -> Tensor:
    """GPTQ's update of the columns after one."""
    factor = gptq.inverse_factor(hessian[column:, column:], damping=0.0)
    error = (weight[:, column].double() - rounded.double()) / factor[0, 0]
    result = weight.double().clone()
    result[:, column:] -= error[:, None] * factor[0]
    return result.to(weight.dtype)


def wanda_mask(weight: Tensor, x: Tensor, n: int, m: int) -> Tensor:
    """Of every m neighbours the n with the largest magnitude times input norm."""
    stats = statistics.ColumnNormStats(weight.shape[1])
    stats.update(x)
    return pruning.wanda_mask(weight, stats.column_norms, pruning.PruningConfig(pattern=(n, m)))


def probes(group_size: int) -> dict[str, Tensor]:
    """For every fault a weight that shows it, where those before it in the order are excluded."""
    ramp = torch.linspace(0, 1, group_size).repeat(group_size, 3)
    rows = torch.logspace(0, 2, group_size)[:, None]
    groups = torch.tensor([1.0, 10.0, 100.0]).repeat_interleave(group_size)
    return {
        "codes_wrapped": ramp,
        "zero_clipped": -ramp,
        "wrong_axis": ramp * rows,
        "groups_mixed": ramp * groups,
    }


def diagnose(quantize: Callable[[Tensor], Tensor], group_size: int) -> str:
    """The first fault whose probe comes back further off than half a step of labkit's grid."""
    for fault, weight in probes(group_size).items():
        scale = affine.quantize(weight, _config(4, group_size)).scale
        half = 0.51 * scale.repeat_interleave(group_size, dim=1)
        if bool(((quantize(weight) - weight).abs() > half).any()):
            return fault
    return "healthy"


IMPLEMENTATIONS: dict[str, Any] = {
    "quantize_groups": quantize_groups,
    "pack_codes": pack_codes,
    "encode_codebook": encode_codebook,
    "repair": repair,
    "wanda_mask": wanda_mask,
    "diagnose": diagnose,
}
