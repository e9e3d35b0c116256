"""The kernels as functions of tensors: shapes and types are checked here, once, not in C++."""

import ctypes

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labkit.inference.native.build import library

LANES = 16  # outputs of a block of weights; tokens of a page
DEPTHS = {torch.bfloat16: 2, torch.uint8: 4}  # inputs that a lane takes at a time


class PackedLinear:
    """y = x W^T with W in bfloat16, or in 8 bits with a scale for each output.

    In 8 bits W[o] ~ scale[o] * q[o], q in [-127, 127], and each row of x is rounded to 8 bits
    at its own scale as it comes; sums are exact integers. Blocks of 16 outputs lie together, the
    inputs of a lane (2 or 4) side by side, so that weights are read once, in order.

    Args:
        weight: of the layer; its outputs are filled up to a multiple of 16.
        bits: 16 for bfloat16, or 8.

    Raises:
        ValueError: I is no multiple of 16.
    """

    def __init__(self, weight: Float[Tensor, "O I"], *, bits: int) -> None:
        outputs, inputs = weight.shape
        if inputs % LANES:
            raise ValueError(f"in_features={inputs} must be a multiple of {LANES}")
        self.in_features, self.out_features, self.bits = inputs, outputs, bits
        self._padded = -(-outputs // LANES) * LANES
        wide = torch.zeros(self._padded, inputs)
        wide[:outputs] = weight.float()
        self._scales = torch.ones(self._padded)
        if bits == 16:
            numbers, self._call = wide.bfloat16(), library().linear_bf16
        elif bits == 8:
            self._scales = wide.abs().amax(1).clamp(min=1e-12) / 127
            rounded = (wide / self._scales[:, None]).round()
            numbers, self._call = (rounded + 128).to(torch.uint8), library().linear_int8
        else:
            raise ValueError(f"bits={bits} must be 8 or 16")
        depth = DEPTHS[numbers.dtype]
        blocks = numbers.view(self._padded // LANES, LANES, inputs // depth, depth)
        self._packed = blocks.transpose(1, 2).contiguous()  # (O / 16, I / depth, 16, depth)

    @property
    def nbytes(self) -> int:
        """Of the weights and scales, which every call reads."""
        return self._packed.nbytes + self._scales.nbytes * (self.bits == 8)

    @property
    def pointers(self) -> tuple[int, int]:
        """Where the packed weights and the scales lie."""
        return self._packed.data_ptr(), self._scales.data_ptr()

    @property
    def sizes(self) -> tuple[int, int]:
        """I, and O filled up."""
        return self.in_features, self._padded

    def __call__(
        self, x: Float[Tensor, "N I"], into: Float[Tensor, "N O"] | None = None
    ) -> Float[Tensor, "N O"]:
        """x W^T in float32; with `into`, added to that in place."""
        N = len(x)
        y = torch.empty(N, self._padded) if into is None else into
        for tensor, width in ((x, self.in_features), (y, self._padded)):
            assert tensor.dtype == torch.float32, tensor.dtype
            assert tensor.is_contiguous(), tensor.stride()
            assert tensor.shape == (N, width), tensor.shape
        scratch = torch.empty(N * self.in_features // 2, dtype=torch.int32)
        facts = torch.empty(2 * N)
        self._call(
            _at(x), _at(self._packed), _at(self._scales), _at(y), N, self.in_features, self._padded,
            int(into is not None), _at(scratch), _at(facts),
        )  # fmt: skip
        return y[:, : self.out_features]


def rms_norm(
    x: Float[Tensor, "N D"], weight: Float[Tensor, " D"], eps: float
) -> Float[Tensor, "N D"]:
    """weight * x / sqrt(mean(x^2) + eps)."""
    y = torch.empty_like(x)
    library().rms_norm(_at(x), _at(weight), _at(y), *x.shape, ctypes.c_float(eps))
    return y


def silu_product(gate_up: Float[Tensor, "N FF"]) -> Float[Tensor, "N F"]:
    """silu(gate) * up of rows (gate, up)."""
    N, F = len(gate_up), gate_up.shape[1] // 2
    y = torch.empty(N, F)
    library().silu_product(_at(gate_up), _at(y), N, F)
    return y


def rope_and_store(
    qkv: Float[Tensor, "N O"],
    cos: Float[Tensor, "N half"],
    sin: Float[Tensor, "N half"],
    places: Int[Tensor, " N"],
    keys: Tensor,
    values: Tensor,
    *scales: Float[Tensor, "P G 16"],
) -> None:
    """Rotate the queries and keys of rows (q, k, v) in place; keys and values go into their pages.

    Args:
        qkv: O = (H + 2 G) K.
        cos, sin: of the tokens' positions.
        places: page * 16 + row.
        keys: one layer's, (P, G, K, 16) in bfloat16 or int8.
        values: one layer's, (P, G, 16, K) in the same type.
        scales: with int8, those of the keys and those of the values.
    """
    N, G, K = len(qkv), keys.shape[1], keys.shape[2]
    H = qkv.shape[1] // K - 2 * G
    library()[f"rope_and_store_{_kind(keys, scales)}"](
        _at(qkv), _at(cos), _at(sin), _at(places), *_pages(keys, values, scales), N, H, G, K
    )


def paged_attention(
    qkv: Float[Tensor, "N O"],
    keys: Tensor,
    values: Tensor,
    tables: Int[Tensor, "B W"],
    rows: Int[Tensor, " N"],
    positions: Int[Tensor, " N"],
    *scales: Float[Tensor, "P G 16"],
) -> Float[Tensor, "N HK"]:
    """softmax(q K^T / sqrt(K)) V of each token over its sequence's tokens up to itself.

    Args:
        qkv: as `rope_and_store` left it.
        keys, values: of that layer, the tokens' own in them.
        tables: pages of each sequence, int32.
        rows: the table of each token.
        positions: of each token.
        scales: with int8, those of the keys and those of the values.
    """
    N, G, K = len(qkv), keys.shape[1], keys.shape[2]
    H = qkv.shape[1] // K - 2 * G
    y = torch.empty(N, H * K)
    library()[f"paged_attention_{_kind(keys, scales)}"](
        _at(qkv), *_pages(keys, values, scales), _at(tables), _at(rows), _at(positions), _at(y),
        N, H, G, K, tables.shape[1],
    )  # fmt: skip
    return y


def _kind(keys: Tensor, scales: tuple[Tensor, ...]) -> str:
    kind = {torch.bfloat16: "bf16", torch.int8: "int8"}[keys.dtype]
    assert len(scales) == (2 if kind == "int8" else 0), len(scales)
    return kind


def _pages(keys: Tensor, values: Tensor, scales: tuple[Tensor, ...]) -> list[ctypes.c_void_p]:
    """Keys, values and their scales, or null."""
    return [_at(keys), _at(values), *([_at(part) for part in scales] or [ctypes.c_void_p()] * 2)]


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
