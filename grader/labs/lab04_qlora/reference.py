"""labkit's QLoRA in the shapes that lab 04's exercises ask for; the source of expected values."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from labkit.quant.blockwise import nearest_codes, scale_blocks
from labkit.quant.linear import FrozenLinear
from labkit.quant.nf4 import (
    NF4_CODES,
    CodebookTensor,
    quantize_codebook,
    quantize_nf4,
)

Packed = tuple[Tensor, Tensor]
State = tuple[Packed, Packed]


def normal_float(bits: int, outermost: float | None = None) -> Tensor:
    """labkit's derivation for any width: `labkit.quant.nf4.normal_float_codes` at four bits."""
    half = 2 ** (bits - 1)
    if outermost is None:
        outermost = 1 - (1 / (4 * half - 2) + 1 / (4 * half)) / 2
    parts = []
    for count in (half, half - 1):
        step = (outermost - 0.5) / count
        places = 0.5 + step * torch.arange(1, count + 1, dtype=torch.float64)
        parts.append(torch.special.ndtri(places))
    codes = torch.cat((-parts[1].flip(0), parts[0].new_zeros(1), parts[0]))
    return (codes / codes[-1]).float()


def pack_weight(weight: Tensor, codes: Tensor, block_size: int) -> Packed:
    """labkit's packed codes and its scales."""
    held = quantize_codebook(weight, codes, block_size)
    assert isinstance(held.scales, Tensor)
    return held.packed, held.scales


def unpack_weight(
    packed: Tensor,
    absmax: Tensor,
    codes: Tensor,
    block_size: int,
    shape: tuple[int, int],
    dtype: torch.dtype,
) -> Tensor:
    """labkit's expansion."""
    return CodebookTensor(packed, absmax, codes, block_size, shape, dtype).dequantize()


def double_quantize(
    absmax: Tensor, table: Tensor, block_size: int = 256
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """labkit's search, for any table and any block of scales."""
    offset = absmax.mean()
    codes, second = nearest_codes(absmax - offset, table, block_size)
    restored = scale_blocks(table[codes.int()], second, block_size) + offset
    return codes, second, offset, restored


class _Layer(FrozenLinear):
    """A frozen layer around whatever makes the weight."""

    def __init__(self, expand: Callable[[], Tensor]) -> None:
        super().__init__((1, 1), torch.float32, None)
        self._expand = expand

    def dequantize(self) -> Tensor:
        return self._expand()


class FrozenProduct(torch.autograd.Function):
    """labkit's product under the name of the exercise."""

    @staticmethod
    def apply(*arguments: Any) -> Tensor:
        """x W^T for x and what makes W."""
        x, expand = arguments
        result: Tensor = _Layer(expand)(x)
        return result


def adam8bit_update(
    grad: Tensor,
    state: State | None,
    step: int,
    tables: tuple[Tensor, Tensor],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    block_size: int = 256,
) -> tuple[Tensor, State]:
    """labkit's steps for any tables and blocks: `labkit.tuning.adam8bit` with its own."""
    held: list[Tensor] = [torch.zeros_like(grad), torch.zeros_like(grad)]
    if state is not None:
        held = [
            scale_blocks(table[codes.int()], absmax, block_size)
            for (codes, absmax), table in zip(state, tables, strict=True)
        ]
    mean = held[0].mul(betas[0]).add(grad, alpha=1 - betas[0])
    square = held[1].mul(betas[1]).addcmul(grad, grad, value=1 - betas[1])
    scale = (square.sqrt() / (1 - betas[1] ** step) ** 0.5).add(eps)
    change = (-lr / (1 - betas[0] ** step)) * mean / scale
    codes, absmax = nearest_codes(square, tables[1], block_size)
    codes = codes.clamp(min=1) * (square > 0)
    return change, (nearest_codes(mean, tables[0], block_size), (codes, absmax))


@torch.no_grad()
def loftq(
    weight: Tensor,
    quantize: Callable[[Tensor], Tensor],
    rank: int,
    scaling: float,
    rounds: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Algorithm 1 for any quantizer: `labkit.tuning.loftq.decompose` with NF4."""
    residual = weight
    for _ in range(rounds):
        quantized = quantize(residual)
        U, S, Vh = torch.linalg.svd(weight - quantized, full_matrices=False)
        root = (S[:rank] / scaling).sqrt()
        A, B = root[:, None] * Vh[:rank], U[:, :rank] * root
        residual = weight - scaling * (B @ A)
    return quantized, A, B


def memory_plan(
    shapes: Sequence[tuple[int, int]], others: int, rank: int, block_size: int = 64
) -> tuple[int, int, int, int, float]:
    """Bytes of what labkit makes of zeros of these shapes."""
    packed = [
        quantize_nf4(torch.zeros(shape), block_size=block_size, double_quant=True)
        for shape in shapes
    ]
    factors = [torch.zeros(count * rank) for shape in shapes for count in shape]
    trained = sum(factor.nbytes for factor in factors)
    moments = [nearest_codes(factor, NF4_CODES, 256) for factor in factors]
    held = sum(tensor.nbytes for tensor in packed)
    bits = 8 * held / sum(map(math.prod, shapes))
    kept = 2 * sum(codes.nbytes + absmax.nbytes for codes, absmax in moments)
    return held + 2 * others, trained, trained, kept, bits


Layer = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def diagnose(layer: Layer, block_size: int) -> str:
    """Four probes of a weight of ones, zeros and minus ones, which four bits keep."""
    weight = torch.zeros(4, block_size)
    weight[:, 0], weight[:, 1] = 1.0, -1.0
    A, B = torch.zeros(2, block_size), torch.zeros(4, 2)
    x = torch.zeros(1, block_size)
    x[0, 0], y_grad = 1.0, torch.ones(1, 4)
    y, x_grad = layer(weight, A, B, x, y_grad)
    if not torch.equal(y, torch.ones(1, 4)):
        return "halves_swapped"
    if not torch.equal(x_grad, weight.sum(0, keepdim=True)):
        return "base_detached"
    y, _ = layer(weight, A, B, x * 1.001, y_grad)
    if not torch.allclose(y, torch.full((1, 4), 1.001), rtol=1e-5):
        return "low_precision"
    A[:, 2], B[:, 0], x[0, 2] = 0.02, 1.0, 1.0
    y, _ = layer(weight, A, B, x, y_grad)
    return "healthy" if torch.allclose(y, torch.full((1, 4), 1.02)) else "merged_first"


def nf4(weight: Tensor) -> Tensor:
    """The weight after NF4 with double quantization: what LoftQ rounds with in the paper."""
    return quantize_nf4(weight).dequantize()


IMPLEMENTATIONS: dict[str, Any] = {
    "normal_float": normal_float,
    "pack_weight": pack_weight,
    "unpack_weight": unpack_weight,
    "double_quantize": double_quantize,
    "frozen_product": FrozenProduct,
    "adam8bit_update": adam8bit_update,
    "loftq": loftq,
    "memory_plan": memory_plan,
    "diagnose": diagnose,
}
