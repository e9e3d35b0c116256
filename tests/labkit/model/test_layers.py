"""Each part of a block against its definition, written out."""

import math

import pytest
import torch
from torch import Tensor

from labkit.model import layers
from labkit.model.config import ModelConfig


def test_rms_norm_is_torchs(gen: torch.Generator) -> None:
    norm = layers.RMSNorm(21, eps=0.3)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(21, generator=gen))
    # Rows of very different size, so that eps matters in one and not in another.
    x = torch.randn(5, 3, 21, generator=gen) * torch.tensor([1e-2, 1.0, 1e3])[:, None]
    expected = torch.nn.functional.rms_norm(x, (21,), norm.weight, 0.3)
    torch.testing.assert_close(norm(x), expected, rtol=1e-6, atol=0)


def test_layer_norm_is_torchs(gen: torch.Generator) -> None:
    norm = layers.LayerNorm(21, eps=0.3)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(21, generator=gen))
        norm.bias.copy_(torch.randn(21, generator=gen))
    x = 4 + torch.randn(5, 3, 21, generator=gen) * torch.tensor([1e-2, 1.0, 1e3])[:, None]
    expected = torch.nn.functional.layer_norm(x, (21,), norm.weight, norm.bias, 0.3)
    torch.testing.assert_close(norm(x), expected, rtol=1e-5, atol=1e-5)


def test_norms_take_their_statistics_in_float32(gen: torch.Generator) -> None:
    x = (300 + torch.randn(5, 21, generator=gen)).bfloat16()
    exact = torch.nn.functional.layer_norm(x.float(), (21,))
    got = layers.LayerNorm(21, eps=1e-5).bfloat16()(x)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), exact, rtol=0.01, atol=0.01)


def test_rope_rotates_each_pair_by_its_angle(gen: torch.Generator) -> None:
    theta, K = 500.0, 10
    x = torch.randn(2, 7, 3, K, generator=gen)
    positions = torch.tensor([[0, 1, 2, 3, 50, 51, 999], [4, 4, 0, 9, 1, 2, 3]])
    got = layers.apply_rope(x, *layers.rope_table(positions, K, theta))
    for i in range(K // 2):
        angle = positions.double() * theta ** (-2 * i / K)
        turn = torch.polar(torch.ones_like(angle), angle)[..., None]
        pair = torch.complex(x[..., i].double(), x[..., i + K // 2].double()) * turn
        torch.testing.assert_close(got[..., i].double(), pair.real, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got[..., i + K // 2].double(), pair.imag, rtol=1e-4, atol=1e-5)


def test_rope_scores_depend_on_distance_alone(gen: torch.Generator) -> None:
    q, k = torch.randn(2, 1, 1, 1, 14, generator=gen)
    scores = []
    for offset in (0, 3, 700):
        at = [layers.rope_table(torch.tensor([[offset + p]]), 14, 1e4) for p in (5, 2)]
        scores.append((layers.apply_rope(q, *at[0]) * layers.apply_rope(k, *at[1])).sum())
    torch.testing.assert_close(scores[1:], [scores[0]] * 2, rtol=1e-4, atol=1e-5)


def _attention_by_hand(attention: layers.Attention, x: Tensor, rope: layers.Rope) -> Tensor:
    """One query at a time, in float64."""
    B, T, _ = x.shape
    K = attention.head_width
    q = layers.apply_rope(attention.q_proj(x).view(B, T, -1, K), *rope).double()
    k = layers.apply_rope(attention.k_proj(x).view(B, T, -1, K), *rope).double()
    v = attention.v_proj(x).view(B, T, -1, K).double()
    H, G = q.shape[2], k.shape[2]
    y = torch.zeros(B, T, H, K, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            g = h // (H // G)
            for t in range(T):
                scores = k[b, : t + 1, g] @ q[b, t, h] / math.sqrt(K)
                y[b, t, h] = scores.softmax(0) @ v[b, : t + 1, g]
    return y.flatten(2) @ attention.o_proj.weight.double().T


@torch.no_grad()
def test_attention_equals_its_definition(tiny_config: ModelConfig, gen: torch.Generator) -> None:
    attention = layers.Attention(tiny_config, layer=0)
    for parameter in attention.parameters():
        parameter.normal_(0, 0.5, generator=gen)
    x = torch.randn(2, 9, 24, generator=gen)
    rope = layers.rope_table(torch.arange(9).expand(2, 9), 4, 1e4)
    expected = _attention_by_hand(attention, x, rope)
    torch.testing.assert_close(attention(x, rope).double(), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_swiglu_equals_its_definition(tiny_config: ModelConfig, gen: torch.Generator) -> None:
    mlp = layers.SwiGLU(tiny_config)
    x = torch.randn(5, 24, generator=gen)
    gate, up = x @ mlp.gate_proj.weight.T, x @ mlp.up_proj.weight.T
    expected = (gate / (1 + torch.exp(-gate)) * up) @ mlp.down_proj.weight.T
    torch.testing.assert_close(mlp(x), expected, rtol=1e-5, atol=1e-6)


def test_wrong_width_is_refused(tiny_config: ModelConfig) -> None:
    with pytest.raises((RuntimeError, TypeError), match=r"23|shape"):
        layers.SwiGLU(tiny_config)(torch.zeros(5, 23))
