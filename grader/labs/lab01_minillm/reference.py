"""labkit's transformer in the shapes that lab 01's exercises ask for."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from labkit.model import layers, moe
from labkit.model.config import ModelConfig, MoeConfig
from labkit.model.minillm import attention_mask


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """labkit's norm in float32, rounded once."""
    norm = layers.RMSNorm(x.shape[-1], eps)
    norm.weight.data = weight.float()
    with torch.no_grad():
        return norm(x.float()).to(x.dtype)  # type: ignore[no-any-return]


def rope(x: Tensor, positions: Tensor, theta: float, rotary_width: int | None = None) -> Tensor:
    """labkit's rotation of the first numbers of each head, in float32."""
    width = x.shape[-1] if rotary_width is None else rotary_width
    table = layers.rope_table(positions, width, theta)
    turned = layers.apply_rope(x[..., :width].float().transpose(1, 2), *table)
    return torch.cat((turned.transpose(1, 2).to(x.dtype), x[..., width:]), dim=-1)


def grouped_attention(
    q: Tensor, k: Tensor, v: Tensor, window: int | None = None, sinks: int = 0
) -> Tensor:
    """torch's fused attention under labkit's mask, the sinks added to it."""
    B, T, S = q.shape[0], q.shape[2], k.shape[2]
    new = torch.zeros(B, T, dtype=torch.long)
    everything = torch.ones(B, S, dtype=torch.bool)  # makes labkit write its mask out
    causal = attention_mask(new, S - T, everything, None)
    near = attention_mask(new, S - T, everything, None, window)
    assert causal is not None
    assert near is not None
    mask = near | (causal & (torch.arange(S) < sinks))
    return functional.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)


def block(
    x: Tensor,
    weights: Mapping[str, Tensor],
    head_width: int,
    norm: Callable[[Tensor, Tensor], Tensor],
    rotate: Callable[[Tensor], Tensor],
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    post_norm: bool = False,
) -> Tensor:
    """labkit's blocks around parts that are given; `test_lab01_minillm` compares it with them."""

    def attention(y: Tensor) -> Tensor:
        q, k, v = (
            functional.linear(y, weights[f"self_attn.{name}_proj.weight"])
            .unflatten(-1, (-1, head_width))
            .transpose(1, 2)
            for name in "qkv"
        )
        out = attend(rotate(q), rotate(k), v).transpose(1, 2).flatten(2)
        return functional.linear(out, weights["self_attn.o_proj.weight"])

    def network(y: Tensor) -> Tensor:
        names = ("gate_proj.weight", "up_proj.weight", "down_proj.weight")
        F, D = weights["mlp.up_proj.weight"].shape
        with torch.device("meta"):
            swiglu = layers.SwiGLU(_dense(width=D, ffn_width=F))
        out: Tensor = functional_call(swiglu, {n: weights[f"mlp.{n}"] for n in names}, (y,))
        return out

    if post_norm:
        x = norm(x + attention(x), weights["post_attention_layernorm.weight"])
        return norm(x + network(x), weights["post_feedforward_layernorm.weight"])
    x = x + attention(norm(x, weights["input_layernorm.weight"]))
    return x + network(norm(x, weights["post_attention_layernorm.weight"]))


def _dense(*, width: int, ffn_width: int) -> ModelConfig:
    """A configuration of which only these two numbers are used."""
    return ModelConfig(
        vocab_size=1,
        width=width,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_width=2,
        ffn_width=ffn_width,
    )


def predict_size(config: Any, context: int) -> tuple[int, int, float]:
    """labkit's own counts, and the operations of its active matrices and of attention."""
    names = {field.name for field in fields(ModelConfig)} - {"moe"}
    own = ModelConfig(
        **{name: getattr(config, name) for name in names if hasattr(config, name)},
        moe=None if config.moe is None else _experts(config.moe),
    )
    vectors = own.width * (2 * own.num_layers + 1)
    tables = own.vocab_size * own.width * (1 if own.tie_embeddings else 2)
    matrices = own.num_active_parameters - vectors - tables + own.vocab_size * own.width
    attention = 2 * own.num_layers * own.num_heads * own.head_width * context
    return own.num_parameters, own.num_active_parameters, 2 * (matrices + attention) / 1e9


def _experts(moe_config: Any) -> MoeConfig:
    return MoeConfig(num_experts=moe_config.num_experts, top_k=moe_config.top_k)


def dispatch(logits: Tensor, top_k: int, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
    """labkit's routing, written into each expert's places."""
    N, E = logits.shape
    router = moe.Router(N, MoeConfig(num_experts=E, top_k=top_k))
    # The router multiplies by its weight (E, N): with the identity as tokens, by the logits.
    routing: moe.Routing = functional_call(router, {"weight": logits.T}, (torch.eye(N),))
    kept = moe.within_capacity(routing.experts, capacity)
    slots, gates = torch.full((E, capacity), -1), torch.zeros(E, capacity)
    for expert in range(E):
        # Choice by choice, as places were given.
        choice, token = torch.where(((routing.experts == expert) & kept).T)
        slots[expert, : len(token)] = token
        gates[expert, : len(token)] = routing.weights[token, choice]
    return slots, gates, (routing.loads - capacity).clamp(min=0)


def diagnose(layer: Any) -> str:
    """One probe for each fault, most of them with outputs that are known beforehand."""
    K = layer.head_width
    if not torch.allclose(layer.norm(torch.ones(1, K)), torch.ones(1, K), atol=1e-3):
        return "centred"
    value = torch.linspace(1, 2, K).view(1, 1, K)
    alone = layer.attend(value, value, value, torch.tensor([3]))
    if not torch.allclose(alone, value, atol=1e-4):
        return "values_rotated"
    ones, places = torch.ones(1, 3, K), torch.arange(3)
    if not torch.allclose(layer.attend(ones, ones, ones, places), ones, atol=1e-4):
        return "unnormalised"
    basis = torch.zeros(1, 3, K)
    basis[..., 1] = 2.0
    values = torch.arange(3.0).view(1, 3, 1).expand(1, 3, K).contiguous()
    table = layers.rope_table(places[None], K, float(layer.theta))
    turned = layers.apply_rope(basis.transpose(0, 1)[None], *table).transpose(1, 2)
    wanted = grouped_attention(turned, turned, values[None])[0]
    got = layer.attend(basis, basis, values, places)
    return "healthy" if torch.allclose(got, wanted, atol=1e-4) else "interleaved"


IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {
    "rms_norm": rms_norm,
    "rope": rope,
    "grouped_attention": grouped_attention,
    "block": block,
    "predict_size": predict_size,
    "dispatch": dispatch,
    "diagnose": diagnose,
}
