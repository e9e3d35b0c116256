"""Four-bit codebook formats (NF4, FP4): blocks scaled to [-1, 1], each weight its nearest code."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from labkit.quant.blockwise import DYNAMIC_MAP, nearest_codes, scale_blocks
from labkit.quant.packing import pack_int4

STATISTICS_BLOCK = 256


def normal_float_codes() -> Float[Tensor, "16"]:
    """Sixteen quantiles of a normal distribution, zero among them, scaled to [-1, 1].

    Eight positive and seven negative codes at equally likely places, the outermost where the
    distribution function is the mean of 1 - 1/30 and 1 - 1/32.

    Paper: arXiv 2305.14314v1, equation 4 and appendix E.
    """
    outermost = 1 - (1 / 30 + 1 / 32) / 2
    positive = torch.special.ndtri(torch.linspace(outermost, 0.5, 9, dtype=torch.float64)[:-1])
    negative = -torch.special.ndtri(torch.linspace(outermost, 0.5, 8, dtype=torch.float64)[:-1])
    codes = torch.cat((negative, negative.new_zeros(1), positive.flip(0)))
    return (codes / codes.max()).float()


# Written out, so that every machine has the same bits; `normal_float_codes` derives them.
NF4_CODES = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
])  # fmt: skip
"""NormalFloat 4 as published (appendix E), ascending."""

_E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]) / 6
FP4_CODES = torch.cat((_E2M1, -_E2M1))
"""FP4 E2M1 in the order of its bit patterns (sign, exponent, mantissa), scaled to [-1, 1]."""

_BNB_FP4 = torch.tensor([0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0]) / 12
BNB_FP4_CODES = torch.cat((_BNB_FP4, -_BNB_FP4))
"""What bitsandbytes calls fp4, in its order: 1/192 stands where E2M1 has 1/12."""


@dataclass(frozen=True, slots=True, eq=False)
class DoubleQuantizedScales:
    """Block scales in 8 bits: scale ~ dynamic_map[q] * absmax + offset.

    Args:
        codes: q, one byte per block of weights.
        absmax: float32, one per 256 scales.
        offset: mean of the scales, taken off first because scales are all positive.
    """

    codes: UInt8[Tensor, " blocks"]
    absmax: Float[Tensor, " superblocks"]
    offset: Float[Tensor, ""]

    def dequantize(self) -> Float[Tensor, " blocks"]:
        """The scales, float32."""
        table = DYNAMIC_MAP.to(self.codes.device)
        return scale_blocks(table[self.codes.int()], self.absmax, STATISTICS_BLOCK) + self.offset

    @property
    def nbytes(self) -> int:
        """Bytes of the quantized scales; their table is not counted."""
        return self.codes.nbytes + self.absmax.nbytes + self.offset.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class CodebookTensor:
    """A weight as packed 4-bit codes and block scales.

    Args:
        packed: two codes a byte, in row-major order, the first in the high half.
        scales: the largest |w| of each block, float32, or quantized themselves.
        codes: the sixteen values.
        block_size: weights that share a scale; blocks run on across rows, the last may be short.
        shape: (O, I).
        dtype: of the weight.
    """

    packed: UInt8[Tensor, " bytes"]
    scales: Float[Tensor, " blocks"] | DoubleQuantizedScales
    codes: Float[Tensor, "16"]
    block_size: int
    shape: tuple[int, int]
    dtype: torch.dtype

    def dequantize(self) -> Float[Tensor, "O I"]:
        """code * scale in float32, then the weight's dtype."""
        scales = self.scales
        if isinstance(scales, DoubleQuantizedScales):
            scales = scales.dequantize()
        n = self.shape[0] * self.shape[1]
        # A byte looks up both its values as one 64-bit word, which is faster than copying rows.
        pairs = torch.cartesian_prod(self.codes, self.codes).view(torch.int64).flatten()
        values = pairs.index_select(0, self.packed.int()).view(torch.float32)[:n]
        return scale_blocks(values, scales, self.block_size).view(self.shape).to(self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales; the table of sixteen values is not counted."""
        return self.packed.nbytes + self.scales.nbytes

    @property
    def overhead_bits_per_weight(self) -> float:
        """Bits that the scales add to each weight: 32/64 = 0.5, or 8/64 + 32/(64*256) = 0.127."""
        return 8 * self.scales.nbytes / (self.shape[0] * self.shape[1])


@torch.no_grad()
def quantize_codebook(
    weight: Float[Tensor, "O I"],
    codes: Float[Tensor, "16"],
    block_size: int = 64,
    double_quant: bool = False,
) -> CodebookTensor:
    """q = argmin_i |w / absmax(block) - codes[i]|; nearest by a search of the midpoints.

    Args:
        weight: (O, I), float.
        codes: sixteen values in [-1, 1], in any order.
        block_size: weights that share a scale.
        double_quant: store the scales in 8 bits, too.

    Returns:
        Packed codes and scales. Beside them, memory is bounded by a fixed number of weights.

    Raises:
        ValueError: the block size is below 1, or a weight is not finite.
    """
    if block_size < 1:
        raise ValueError(f"block_size={block_size} must be at least 1; 64 is usual")
    if not weight.isfinite().all():
        bad = weight.numel() - int(weight.isfinite().sum())
        raise ValueError(f"{bad} of {weight.numel()} weights are not finite; repair them first")
    codes = codes.to(weight.device, torch.float32)
    indices, absmax = nearest_codes(weight.reshape(-1), codes, block_size)
    scales = _quantize_scales(absmax) if double_quant else absmax
    O, I = weight.shape  # noqa: E741
    return CodebookTensor(pack_int4(indices), scales, codes, block_size, (O, I), weight.dtype)


def quantize_nf4(
    weight: Float[Tensor, "O I"], *, block_size: int = 64, double_quant: bool = True
) -> CodebookTensor:
    """NF4 with double quantization, as in QLoRA.

    Paper: arXiv 2305.14314v1, section 3.
    """
    return quantize_codebook(weight, NF4_CODES, block_size, double_quant)


def _quantize_scales(absmax: Tensor) -> DoubleQuantizedScales:
    offset = absmax.mean()
    table = DYNAMIC_MAP.to(absmax.device)
    codes, second = nearest_codes(absmax - offset, table, STATISTICS_BLOCK)
    return DoubleQuantizedScales(codes, second, offset)
