"""The Triton kernels against the tiles in plain torch, in Triton's interpreter or on a GPU."""

import os

import pytest
import torch
from torch import Tensor

from labkit.model.flash import flash_attention_2

ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when its own functions are defined
pytest.importorskip("triton", reason="Triton is not installed here: `make triton` runs these tests")
flash_attention_triton = pytest.importorskip("labkit.model.flash_triton").flash_attention_triton

B, H, G, K = 2, 6, 3, 10
DEVICE = "cuda" if ON_GPU else "cpu"


def _inputs(gen: torch.Generator, T: int, S: int, dtype: torch.dtype) -> list[Tensor]:
    """Queries, keys, values and the output's gradient; large scores, so that maxima move."""
    shapes = (B, H, T, K), (B, G, S, K), (B, G, S, K), (B, H, T, K)
    q, k, v, way = (torch.randn(shape, generator=gen, dtype=torch.float64) for shape in shapes)
    return [x.to(DEVICE, dtype) for x in (3 * q, k, v, way)]


def _all(f, inputs: list[Tensor], **options: object) -> list[Tensor]:
    """The output, dq, dk and dv."""
    q, k, v = (x.clone().requires_grad_() for x in inputs[:3])
    out = f(q, k, v, **options)
    return [out, *torch.autograd.grad(out, (q, k, v), inputs[3])]


@pytest.mark.parametrize(
    ("T", "S", "causal"), [(37, 37, True), (19, 41, True), (1, 33, True), (35, 18, False)]
)
def test_output_and_gradients_are_those_of_the_tiles_in_torch(
    gen: torch.Generator, T: int, S: int, causal: bool
) -> None:
    inputs = _inputs(gen, T, S, torch.float32)
    ours = _all(flash_attention_triton, inputs, causal=causal, block_q=16, block_k=32)
    theirs = _all(flash_attention_2, [x.double() for x in inputs], causal=causal)
    for name, x, y in zip(("out", "dq", "dk", "dv"), ours, theirs, strict=True):
        torch.testing.assert_close(x.double(), y, rtol=1e-4, atol=2e-5, msg=name)


def test_float16_errs_no_more_than_the_tiles_in_torch(gen: torch.Generator) -> None:
    """Against float64 on the same rounded inputs, at most twice their root mean square.

    Not bfloat16: Triton's interpreter cuts its last bits off where a GPU rounds them.
    """
    inputs = _inputs(gen, 21, 21, torch.float16)
    exact = _all(flash_attention_2, [x.double() for x in inputs])
    ours = _all(flash_attention_triton, inputs, block_q=16, block_k=16)
    for x, y, z in zip(ours, _all(flash_attention_2, inputs), exact, strict=True):
        assert x.dtype == torch.float16
        assert (x - z).square().mean() <= 4 * (y - z).square().mean()


def test_refusals(gen: torch.Generator) -> None:
    q, k, v, _ = _inputs(gen, 5, 3, torch.float32)
    with pytest.raises(ValueError, match="T=5 causal queries see nothing of S=3"):
        flash_attention_triton(q, k, v)
    with pytest.raises(ValueError, match="G=4 key/value heads must divide H=6"):
        flash_attention_triton(q, k[:, [0, 1, 2, 0]], v[:, [0, 1, 2, 0]], causal=False)
    with pytest.raises(ValueError, match="block_q=24"):
        flash_attention_triton(q, k, v, causal=False, block_q=24)
