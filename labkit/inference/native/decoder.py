"""All layers of a step in one call: for one token, the calls would cost what the work does."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.inference.native.build import library
from labkit.inference.native.ops import PackedLinear
from labkit.inference.paged_cache import PagedCache
from labkit.inference.step_batch import StepBatch

POINTER, NUMBER = ctypes.c_void_p, ctypes.c_int


class _Weight(ctypes.Structure):
    _fields_ = [
        ("packed", POINTER),
        ("scales", POINTER),
        ("I", NUMBER),
        ("O", NUMBER),
        ("bits", NUMBER),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        ("norm_attention", POINTER),
        ("norm_ffn", POINTER),
        *((name, _Weight) for name in ("qkv", "o", "gate_up", "down")),
        *((name, POINTER) for name in ("keys", "values", "key_scales", "value_scales")),
    ]


_BUFFERS = ("x", "h", "qkv", "y", "gate_up", "scratch", "facts")
_READ = ("cos", "sin", "places", "rows", "positions", "tables")
_SIZES = ("N", "D", "F", "H", "G", "K", "table_width")


class _Step(ctypes.Structure):
    _fields_ = [
        *((name, POINTER) for name in (*_BUFFERS, *_READ)),
        ("eps", ctypes.c_float),
        *((name, NUMBER) for name in _SIZES),
    ]


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """One block, packed: Q, K and V as one matrix, gate and up as another."""

    norm_attention: Float[Tensor, " D"]
    norm_ffn: Float[Tensor, " D"]
    qkv: PackedLinear
    o: PackedLinear
    gate_up: PackedLinear
    down: PackedLinear

    @property
    def nbytes(self) -> int:
        """Of the matrices, which every step reads."""
        return sum(linear.nbytes for linear in (self.qkv, self.o, self.gate_up, self.down))


class NativeDecoder:
    """The layers of a packed Llama decoder over their pages.

    Args:
        layers: in order; all of one shape.
        cache: keys and values in bfloat16 or int8, pages of 16 tokens.
        num_heads: H.
        eps: of the norms.
    """

    def __init__(
        self, layers: Sequence[LayerWeights], cache: PagedCache, *, num_heads: int, eps: float
    ) -> None:
        self._kept = list(layers), cache  # their memory is pointed into
        self._layers = (_Layer * len(layers))(
            *(_layer(layer, [part[i] for part in cache.parts]) for i, layer in enumerate(layers))
        )
        kind = "int8" if cache.keys.dtype == torch.int8 else "bf16"
        self._call = library()[f"decoder_{kind}"]
        _, _, G, K, _ = cache.keys.shape
        self._sizes = {"H": num_heads, "G": G, "K": K}
        self._eps = eps

    def run(
        self,
        x: Float[Tensor, "N D"],
        cos: Float[Tensor, "N half"],
        sin: Float[Tensor, "N half"],
        batch: StepBatch,
    ) -> None:
        """Take the residual stream through all layers, in place."""
        N, D = x.shape
        H, G, K = self._sizes.values()
        F = self._layers[0].down.I
        buffers = {
            "h": torch.empty(N, D),
            "qkv": torch.empty(N, (H + 2 * G) * K),
            "y": torch.empty(N, max(H * K, F)),
            "gate_up": torch.empty(N, 2 * F),
            "scratch": torch.empty(N, max(D, H * K, F) // 2, dtype=torch.int32),
            "facts": torch.empty(N, 2),
        }
        read = {"cos": cos, "sin": sin, **{name: getattr(batch, name) for name in _READ[2:]}}
        sizes = {"N": N, "D": D, "F": F, **self._sizes, "table_width": batch.tables.shape[1]}
        tensors = {"x": x, **buffers, **read}
        pointers = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        step = _Step(**pointers, eps=self._eps, **sizes)
        self._call(self._layers, len(self._layers), ctypes.byref(step))


def _layer(weights: LayerWeights, parts: list[Tensor]) -> _Layer:
    *scales, keys, values = parts
    pages = [keys, values, *scales]
    names = ("keys", "values", "key_scales", "value_scales")
    pointers: dict[str, Any] = {
        name: part.data_ptr() for name, part in zip(names, pages, strict=False)
    }
    for name in ("qkv", "o", "gate_up", "down"):
        linear: PackedLinear = getattr(weights, name)
        pointers[name] = _Weight(*linear.pointers, *linear.sizes, linear.bits)
    return _Layer(
        norm_attention=weights.norm_attention.data_ptr(),
        norm_ffn=weights.norm_ffn.data_ptr(),
        **pointers,
    )
