"""Tiled attention against torch, against float64, and against what it must never hold."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from labkit.model import flash

B, H, G, K = 2, 6, 3, 10
# Ragged last tiles, tiles of one row, one tile for all; fewer queries than keys.
TILINGS = [(7, 5), (5, 7), (1, 3), (3, 1), (64, 64), (13, 4)]
LENGTHS = [(29, 29), (17, 29), (1, 29)]


@pytest.fixture(params=[flash.flash_attention_1, flash.flash_attention_2])
def attend(request: pytest.FixtureRequest) -> Callable[..., Tensor]:
    return request.param


def _inputs(gen: torch.Generator, T: int, S: int, dtype: torch.dtype) -> list[Tensor]:
    """Queries, keys, values and the output's gradient; large scores, so that maxima move."""
    shapes = (B, H, T, K), (B, G, S, K), (B, G, S, K), (B, H, T, K)
    q, k, v, way = (torch.randn(shape, generator=gen, dtype=torch.float64) for shape in shapes)
    return [x.to(dtype) for x in (3 * q, k, v, way)]


def _naive(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    k, v = (x.repeat_interleave(H // G, 1) for x in (k, v))
    s = q @ k.mT / math.sqrt(K)
    if causal:
        T, S = s.shape[-2:]
        s = s.masked_fill(torch.ones(T, S).tril(S - T) == 0, -math.inf)
    return s.softmax(-1) @ v


def _all(
    f: Callable[..., Tensor], inputs: list[Tensor], *args: Any, **options: Any
) -> list[Tensor]:
    """The output, dq, dk and dv."""
    q, k, v = (x.clone().requires_grad_() for x in inputs[:3])
    out = f(q, k, v, *args, **options)
    return [out, *torch.autograd.grad(out, (q, k, v), inputs[3])]


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("T", "S"), LENGTHS)
def test_it_is_exact(
    attend: Callable[..., Tensor],
    gen: torch.Generator,
    T: int,
    S: int,
    causal: bool,
    tiling: tuple[int, int],
) -> None:
    inputs = _inputs(gen, T, S, torch.float64)
    got = _all(attend, inputs, causal=causal, block_q=tiling[0], block_k=tiling[1])
    for ours, theirs in zip(got, _all(_naive, inputs, causal), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_it_is_torchs(attend: Callable[..., Tensor], gen: torch.Generator) -> None:
    inputs = _inputs(gen, 29, 29, torch.float32)
    theirs = _all(scaled_dot_product_attention, inputs, is_causal=True, enable_gqa=True)
    for ours, expected in zip(_all(attend, inputs, block_q=8, block_k=5), theirs, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def _rms(error: Tensor) -> float:
    return error.square().mean().sqrt().item()


def _largest(error: Tensor) -> float:
    return error.abs().max().item()


# In float32 the largest of some thousand roundings is mostly chance: it varies threefold by seed.
@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float32, _rms), (torch.bfloat16, _rms), (torch.bfloat16, _largest)],
)
@pytest.mark.parametrize("causal", [True, False])
def test_its_error_is_at_most_twice_the_naive_ones(
    attend: Callable[..., Tensor],
    gen: torch.Generator,
    causal: bool,
    dtype: torch.dtype,
    size: Callable[[Tensor], float],
) -> None:
    """Of the output, dq, dk and dv, against float64 on the same rounded inputs."""
    for _ in range(3):
        inputs = _inputs(gen, 61, 61, dtype)
        exact = _all(_naive, [x.double() for x in inputs], causal)
        ours = _all(attend, inputs, causal=causal, block_q=16, block_k=11)
        naive = _all(_naive, inputs, causal)
        for name, x, y, z in zip(("out", "dq", "dk", "dv"), ours, naive, exact, strict=True):
            assert x.dtype == dtype
            assert size(x - z) <= 2 * size(y - z), name


def _saved(f: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    found: list[Tensor] = []
    q, k, v = (x.clone().requires_grad_() for x in inputs[:3])

    def pack(x: Tensor) -> Tensor:
        found.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        f(q, k, v)
    return found


@pytest.mark.parametrize(
    ("attend", "statistics"), [(flash.flash_attention_1, 2), (flash.flash_attention_2, 1)]
)
def test_no_matrix_of_scores_is_saved(
    gen: torch.Generator, attend: Callable[..., Tensor], statistics: int
) -> None:
    T, S = 53, 59
    inputs = _inputs(gen, T, S, torch.float32)
    saved = _saved(lambda *qkv: attend(*qkv, block_q=16, block_k=16), inputs)
    assert not any({T, S} <= set(x.shape) for x in saved)
    size = sum(x.numel() for x in saved)
    assert size == 2 * B * H * T * K + 2 * B * G * S * K + statistics * B * H * T
    naive = _saved(lambda *qkv: _naive(*qkv, causal=True), inputs)
    assert any({T, S} <= set(x.shape) for x in naive), "the test could not fail"


class _Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation gives back."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, Tensor):
                self.numel = max(self.numel, x.numel())
        return result


def test_no_matrix_of_scores_is_ever_made(
    attend: Callable[..., Tensor], gen: torch.Generator
) -> None:
    """Forward and backward: at 12 times the head's width nothing is larger than q."""
    T = 12 * K + 1
    inputs = _inputs(gen, T, T, torch.float32)
    with _Largest() as largest:
        _all(attend, inputs, block_q=8, block_k=8)
    assert largest.numel == B * H * T * K
    with _Largest() as largest:
        _all(_naive, inputs, True)
    assert largest.numel >= B * H * T * T


def test_gradients_by_finite_differences(
    attend: Callable[..., Tensor], gen: torch.Generator
) -> None:
    q, k, v, _ = _inputs(gen, 5, 7, torch.float64)
    small = [x[:1, :, :, :4].clone().requires_grad_() for x in (q, k, v)]
    assert torch.autograd.gradcheck(lambda *x: attend(*x, block_q=2, block_k=3), small)


def test_huge_scores_stay_finite(attend: Callable[..., Tensor], gen: torch.Generator) -> None:
    q, k, v, way = _inputs(gen, 29, 29, torch.float32)
    for x in _all(attend, [300 * q, k, v, way], block_q=4, block_k=6):
        assert x.isfinite().all()


def test_refusals_name_the_values(attend: Callable[..., Tensor], gen: torch.Generator) -> None:
    q, k, v, _ = _inputs(gen, 7, 5, torch.float32)
    with pytest.raises(ValueError, match="T=7 causal queries see nothing of S=5"):
        attend(q, k, v)
    assert attend(q, k, v, causal=False).shape == q.shape
    with pytest.raises(ValueError, match="G=3 key/value heads must divide H=5"):
        attend(q[:, :5], k, v, causal=False)
    with pytest.raises(ValueError, match="block_q=0 and block_k=64"):
        attend(q, k, v, causal=False, block_q=0)
