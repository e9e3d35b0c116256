"""Linear layers whose weight is stored packed, frozen, and expanded for each product."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from labkit.quant.affine import AffineConfig, QuantizedTensor, quantize
from labkit.quant.nf4 import CodebookTensor, DoubleQuantizedScales
from labkit.quant.packing import pack_bits, pack_int4, unpack_bits, unpack_int4

Model = TypeVar("Model", bound=nn.Module)


class _FrozenProduct(torch.autograd.Function):
    """x W^T whose backward pass expands W again: no dense weight outlives a product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: "FrozenLinear") -> Tensor:
        ctx.layer = layer
        return functional.linear(x, layer.dequantize().to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return grad @ ctx.layer.dequantize().to(grad.dtype), None


class FrozenLinear(nn.Module, ABC):
    """y = x dequantize(W)^T + b. Gradients reach x and b; W takes none.

    Everything packed lies in uint8 buffers, scales too, so that `model.to(dtype)` cannot round it.

    Args:
        shape: (O, I).
        dtype: of the expanded weight; a product is made in x's dtype.
        bias: (O,) or None.
    """

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = shape
        self.dtype = dtype
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: Float[Tensor, "*B T I"]) -> Float[Tensor, "*B T O"]:
        out: Tensor = _FrozenProduct.apply(x, self)
        return out if self.bias is None else out + self.bias

    @abstractmethod
    def dequantize(self) -> Float[Tensor, "O I"]:
        """The weight that the layer multiplies by."""

    @property
    def device(self) -> torch.device:
        """Where the packed weight lies."""
        return next(self.buffers()).device

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weight with its scales, bias not counted."""
        return sum(buffer.nbytes for buffer in self.buffers())

    def extra_repr(self) -> str:
        bits = 8 * self.nbytes / (self.in_features * self.out_features)
        return f"{self.in_features} -> {self.out_features}, {bits:.2f} bits per weight"


class QuantLinear(FrozenLinear):
    """A linear layer over affine integer codes, packed to `bits` bits each.

    Args:
        quantized: codes and grids.
        bias: (O,) or None.
        dtype: of the expanded weight.
    """

    packed: Tensor
    scale: Tensor
    zero_point: Tensor | None

    def __init__(
        self,
        quantized: QuantizedTensor,
        bias: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(quantized.shape, dtype or quantized.scale.dtype, bias)
        self.config = quantized.config
        self.scale_dtype = quantized.scale.dtype
        codes = (quantized.codes.short() + self._offset).to(torch.uint8)
        bits = self.config.bits
        self.register_buffer("packed", pack_int4(codes) if bits == 4 else pack_bits(codes, bits))
        self.register_buffer("scale", _as_bytes(quantized.scale))
        self.register_buffer("zero_point", quantized.zero_point)

    @property
    def _offset(self) -> int:
        return 2 ** (self.config.bits - 1) if self.config.symmetric else 0

    @property
    def quantized(self) -> QuantizedTensor:
        """The weight, unpacked but not expanded."""
        shape = (self.out_features, self.in_features)
        bits = self.config.bits
        codes = (
            unpack_int4(self.packed, shape) if bits == 4 else unpack_bits(self.packed, bits, shape)
        )
        if self.config.symmetric:
            codes = (codes.short() - self._offset).to(torch.int8)
        scale = self.scale.view(self.scale_dtype)
        return QuantizedTensor(codes, scale, self.zero_point, self.config, shape)

    def dequantize(self) -> Float[Tensor, "O I"]:
        return self.quantized.dequantize().to(self.dtype)


class CodebookLinear(FrozenLinear):
    """A linear layer over NF4 or FP4 codes: QLoRA's frozen base.

    Args:
        quantized: packed codes and scales.
        bias: (O,) or None.
    """

    packed: Tensor
    scale: Tensor
    scale_absmax: Tensor | None
    scale_offset: Tensor | None

    def __init__(self, quantized: CodebookTensor, bias: Tensor | None = None) -> None:
        super().__init__(quantized.shape, quantized.dtype, bias)
        self.codes = tuple(quantized.codes.tolist())
        self.block_size = quantized.block_size
        self.register_buffer("packed", quantized.packed)
        scales = quantized.scales
        if isinstance(scales, DoubleQuantizedScales):
            self.register_buffer("scale", scales.codes)
            self.register_buffer("scale_absmax", _as_bytes(scales.absmax))
            self.register_buffer("scale_offset", _as_bytes(scales.offset[None]))
        else:
            self.register_buffer("scale", _as_bytes(scales))
            self.register_buffer("scale_absmax", None)
            self.register_buffer("scale_offset", None)

    @property
    def quantized(self) -> CodebookTensor:
        """The packed weight."""
        scales: Tensor | DoubleQuantizedScales
        if self.scale_absmax is None or self.scale_offset is None:
            scales = self.scale.view(torch.float32)
        else:
            absmax, offset = (b.view(torch.float32) for b in (self.scale_absmax, self.scale_offset))
            scales = DoubleQuantizedScales(self.scale, absmax, offset[0])
        codes = torch.tensor(self.codes, device=self.device)
        shape = (self.out_features, self.in_features)
        return CodebookTensor(self.packed, scales, codes, self.block_size, shape, self.dtype)

    def dequantize(self) -> Float[Tensor, "O I"]:
        return self.quantized.dequantize()


def from_linear(linear: nn.Linear, config: AffineConfig) -> QuantLinear:
    """A packed copy of a linear layer, rounded to nearest.

    Raises:
        ValueError: as `affine.quantize`.
    """
    weight = linear.weight.detach()
    return QuantLinear(quantize(weight, config), linear.bias, weight.dtype)


def quantize_model(
    model: Model, config: AffineConfig, *, skip: tuple[str, ...] = ("lm_head",)
) -> Model:
    """Replace the model's linear layers by packed ones, in place, rounded to nearest.

    Args:
        model: any module with linear layers.
        config: the format.
        skip: names of layers to leave alone, each a whole path or its last parts.

    Returns:
        The same model.

    Raises:
        ValueError: a layer cannot be quantized so, or there is none. The model is then unchanged.
    """
    return replace_linears(model, lambda linear: from_linear(linear, config), skip=skip)


def replace_linears(
    model: Model, convert: Callable[[nn.Linear], nn.Module], *, skip: tuple[str, ...] = ()
) -> Model:
    """Put `convert(linear)` in every linear layer's place; all of them or, on an error, none.

    Raises:
        ValueError: from `convert`, with the layer's name before it; or no layer is left to convert.
    """
    converted: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name and not _named(name, skip):
            try:
                converted[name] = convert(module).train(module.training)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
    if not converted:
        raise ValueError(f"no linear layer to quantize in a {type(model).__name__}; skip={skip}")
    for name, module in converted.items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, module)
    return model


def _named(name: str, names: tuple[str, ...]) -> bool:
    return any(name == other or name.endswith(f".{other}") for other in names)


def _as_bytes(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.uint8)
