"""Blockwise quantization to any table of codes, and the 8-bit table for statistics."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

_CHUNK_WEIGHTS = 1 << 18  # a few megabytes of temporaries, which also stay in the CPU's cache


def dynamic_map(*, signed: bool = True) -> Float[Tensor, "256"]:
    """The 8-bit code in which block scales and an optimizer's moments are stored.

    A sign, a unary exponent 10^-6 .. 10^0, and in what bits that leaves the middles of 2^i equal
    parts of [0.1, 1]; and 0 and 1. Without the sign the parts are twice as many.

    Paper: arXiv 1511.04561; arXiv 2110.02861, section 2.2.
    """
    magnitudes = []
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (exponent + (not signed)) + 1)
        magnitudes.append((edges[:-1] + edges[1:]) / 2 * 10.0 ** (exponent - 6))
    positive = torch.cat(magnitudes)
    ends = torch.tensor([0.0, 1.0])
    parts = (-positive, positive, ends) if signed else (positive, ends)
    return torch.cat(parts).sort().values


DYNAMIC_MAP = dynamic_map()
UNSIGNED_DYNAMIC_MAP = dynamic_map(signed=False)


def nearest_codes(
    values: Float[Tensor, " n"], codes: Float[Tensor, " c"], block_size: int
) -> tuple[UInt8[Tensor, " n"], Float[Tensor, " blocks"]]:
    """Index of the nearest code for every value, and each block's largest magnitude.

    Args:
        values: flat; the last block may be short.
        codes: at most 256 values in [-1, 1], in any order.
        block_size: values that share a scale.
    """
    ordered, order = codes.sort(stable=True)
    midpoints = (ordered[:-1] + ordered[1:]) / 2
    order = order.to(torch.uint8)
    indices, absmax = [], []
    for chunk in values.split(max(1, _CHUNK_WEIGHTS // block_size) * block_size):
        padded = torch.cat((chunk, chunk.new_zeros(-chunk.numel() % block_size)))
        blocks = padded.view(-1, block_size).float()
        largest = blocks.abs().amax(1)
        unit = blocks * (1 / largest.clamp(min=torch.finfo(torch.float32).tiny))[:, None]
        places = torch.bucketize(unit.flatten()[: chunk.numel()], midpoints, out_int32=True)
        indices.append(order.index_select(0, places))
        absmax.append(largest)
    return torch.cat(indices), torch.cat(absmax)


def scale_blocks(
    values: Float[Tensor, " n"], scales: Float[Tensor, " blocks"], block_size: int
) -> Float[Tensor, " n"]:
    """Multiply each block of a flat tensor by its scale, in place."""
    full = values.numel() // block_size
    split = full * block_size
    values[:split].view(full, block_size).mul_(scales[:full, None])
    if split < values.numel():
        values[split:].mul_(scales[-1])
    return values
