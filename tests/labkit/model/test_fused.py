"""Fused functions give the plain ones' values and gradients, and save less for backward."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from labkit.model import fused, minillm
from labkit.model.config import ModelConfig
from labkit.model.layers import Attention, RMSNorm, SwiGLU

B, H, G, K = 2, 6, 3, 10
WIDTH, EPS = 11, 0.3  # an epsilon that matters
Function = Callable[..., Tensor]
ROUNDING = {
    torch.float32: {"rtol": 1e-5, "atol": 2e-6},
    torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2},
}


def with_gradients(function: Function, inputs: list[Tensor], gen: torch.Generator) -> list[Tensor]:
    """The output, and the gradients of the inputs for one random gradient of the output."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    out = function(*inputs)
    way = torch.randn(out.shape, generator=copied(gen)).to(out.dtype)
    return [out, *torch.autograd.grad(out, inputs, way)]


def copied(gen: torch.Generator) -> torch.Generator:
    made = torch.Generator()
    made.set_state(gen.get_state())
    return made


def saved_bytes(function: Callable[[], Tensor]) -> int:
    """Bytes that a function keeps for its backward pass, each tensor's memory once."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        out = function()
    assert out.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("dtype", ROUNDING)
def test_rms_norm(gen: torch.Generator, dtype: torch.dtype) -> None:
    inputs = [torch.randn(shape, generator=gen).to(dtype) for shape in ((3, 5, WIDTH), (WIDTH,))]
    ours = with_gradients(lambda x, w: fused.rms_norm(x, w, EPS), inputs, gen)
    plain = with_gradients(lambda x, w: RMSNorm.normalise(x, w, EPS), inputs, gen)
    for got, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(got, expected, **ROUNDING[dtype])


@pytest.mark.parametrize("dtype", ROUNDING)
def test_gated(gen: torch.Generator, dtype: torch.dtype) -> None:
    inputs = [3 * torch.randn(3, 5, WIDTH, generator=gen).to(dtype) for _ in range(2)]
    ours, plain = (with_gradients(f, inputs, gen) for f in (fused.gated, SwiGLU.gated))
    for got, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(got, expected, **ROUNDING[dtype])


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("rows", ["causal", "one mask a row", "one mask for all", "one query"])
def test_attention(gen: torch.Generator, rows: str, dtype: torch.dtype) -> None:
    T = 1 if rows == "one query" else 13
    S = 17 if rows == "one query" else 13
    masks = {
        "one mask a row": torch.rand(B, 1, T, S, generator=gen) < 0.5,
        "one mask for all": torch.rand(1, 1, T, S, generator=gen) < 0.5,
    }
    mask = masks[rows] | torch.eye(T, S, dtype=torch.bool) if rows in masks else None
    shapes = (B, H, T, K), (B, G, S, K), (B, G, S, K)
    inputs = [2 * torch.randn(shape, generator=gen).to(dtype) for shape in shapes]
    ours, plain = (
        with_gradients(lambda *qkv, f=f: f(*qkv, mask), inputs, gen)
        for f in (fused.attend, Attention.attend)
    )
    for got, expected in zip(ours, plain, strict=True):
        scale = float(expected.detach().abs().max())
        torch.testing.assert_close(got / scale, expected / scale, **ROUNDING[dtype])


def test_attention_is_written_for_queries_at_the_end_of_the_keys(gen: torch.Generator) -> None:
    """PyTorch's causal mask counts from the first key; a query with a cache sees all before it."""
    q, k, v = (torch.randn(B, n, s, K, generator=gen) for n, s in ((H, 13), (G, 13), (G, 13)))
    whole = fused.attend(q, k, v, None)
    torch.testing.assert_close(fused.attend(q[:, :, 9:], k, v, None), whole[:, :, 9:])


def test_no_matrix_of_scores_is_kept(gen: torch.Generator) -> None:
    T = 96
    q, k, v = (torch.randn(1, n, T, K, generator=gen, requires_grad=True) for n in (H, G, G))
    linear = 4 * T * (2 * H * K + 2 * G * K + H) + 4 * T * T  # q, y, k, v, log-sums; one mask
    assert saved_bytes(lambda: fused.attend(q, k, v, None)) <= linear
    assert linear < 4 * H * T * T


def test_silus_value_is_not_kept(gen: torch.Generator) -> None:
    gate, up = (torch.randn(5, WIDTH, generator=gen, requires_grad=True) for _ in range(2))
    assert saved_bytes(lambda: fused.gated(gate, up)) == 2 * 4 * gate.numel()
    assert saved_bytes(lambda: SwiGLU.gated(gate, up)) == 3 * 4 * gate.numel()


def test_a_fused_model_is_the_same_model(tiny_config: ModelConfig, gen: torch.Generator) -> None:
    plain = minillm.MiniLLM(tiny_config)
    minillm.initialise(plain, gen)
    model = fused.fuse(copy.deepcopy(plain))
    ids = torch.randint(0, tiny_config.vocab_size, (3, 7), generator=gen)
    documents = torch.tensor([[0] * 4 + [1] * 3] * 3)
    for options in ({}, {"document_ids": documents}):
        loss, expected = (m(ids, **options).logsumexp(-1).sum() for m in (model, plain))
        torch.testing.assert_close(loss, expected)
        names = [name for name, _ in plain.named_parameters()]
        assert [name for name, _ in model.named_parameters()] == names
        ours, theirs = (
            torch.autograd.grad(total, tuple(m.parameters()))
            for total, m in ((loss, model), (expected, plain))
        )
        for got, wanted in zip(ours, theirs, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    x = torch.randn(3, 7, tiny_config.width, generator=gen, requires_grad=True)
    assert "RMSNorm" in type(model.model.norm(x).grad_fn).__name__


def test_what_has_no_layers_of_ours_is_refused() -> None:
    with pytest.raises(ValueError, match="a Linear has no layers of MiniLLM's to fuse"):
        fused.fuse(nn.Linear(3, 5))
