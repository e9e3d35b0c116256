"""Where a block's norms stand, written out with torch's own norms."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from labkit.model import blocks, layers, minillm
from labkit.model.cache import KVCache
from labkit.model.config import ModelConfig, MoeConfig


def _norm(module: nn.Module, x: Tensor) -> Tensor:
    if isinstance(module, layers.LayerNorm):
        return functional.layer_norm(x, (24,), module.weight, module.bias, module.eps)
    return functional.rms_norm(x, (24,), module.weight, module.eps)


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("position", ["pre", "post"])
@torch.no_grad()
def test_norms_stand_where_they_are_said_to(
    tiny_config: ModelConfig, gen: torch.Generator, position: str, norm: str
) -> None:
    config = replace(tiny_config, norm=norm, norm_position=position, norm_eps=0.1)
    block = blocks.build_block(config, 0)
    for parameter in block.parameters():
        parameter.normal_(0.4, 0.4, generator=gen)
    x = torch.randn(2, 9, 24, generator=gen)
    rope = layers.rope_table(torch.arange(9).expand(2, 9), 4, 1e4)
    if position == "pre":
        y = x + block.self_attn(_norm(block.input_layernorm, x), rope)
        expected = y + block.mlp(_norm(block.post_attention_layernorm, y))
    else:
        y = _norm(block.post_attention_layernorm, x + block.self_attn(x, rope))
        expected = _norm(block.post_feedforward_layernorm, y + block.mlp(y))
    torch.testing.assert_close(block(x, rope), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_post_norm_leaves_a_normalised_stream_to_the_head(
    tiny_config: ModelConfig, gen: torch.Generator
) -> None:
    config = replace(tiny_config, norm="layer", norm_position="post", tie_embeddings=False)
    model = minillm.MiniLLM(config)
    minillm.initialise(model, gen)
    seen: list[Tensor] = []
    model.lm_head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(torch.randint(0, 97, (2, 9), generator=gen))
    torch.testing.assert_close(seen[0].mean(-1), torch.zeros(2, 9), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[0].var(-1, correction=0), torch.ones(2, 9), rtol=0.02, atol=0)


def test_every_parameter_of_every_variant_gets_a_gradient(
    tiny_config: ModelConfig, gen: torch.Generator
) -> None:
    ids = torch.randint(0, 97, (5, 13), generator=gen)
    for change in (
        {"norm": "layer"},
        {"norm_position": "post"},
        {"sliding_window": 4, "num_kv_heads": 1},
        {"moe": MoeConfig(num_experts=3, top_k=2)},
    ):
        model = minillm.MiniLLM(replace(tiny_config, **change))
        minillm.initialise(model, gen)
        (model(ids) * torch.randn(5, 13, 97, generator=gen)).sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    "change",
    [
        {"norm": "layer", "norm_position": "post"},
        {"moe": MoeConfig(num_experts=5, top_k=2, capacity_factor=0.5)},
    ],
)
@torch.no_grad()
def test_every_variant_decodes_as_it_recomputes(
    tiny_config: ModelConfig, gen: torch.Generator, change: dict[str, Any]
) -> None:
    ids = torch.randint(0, 97, (5, 13), generator=gen)
    model = minillm.MiniLLM(replace(tiny_config, **change)).eval()
    for parameter in model.parameters():
        parameter.normal_(0.2 if parameter.ndim == 1 else 0, 0.3, generator=gen)
    cache = KVCache(model.config, batch_size=5, max_length=13)
    parts = [model(part, cache=cache) for part in ids.split((6, 1, 1, 4, 1), dim=1)]
    expected = model(ids)
    error = (torch.cat(parts, 1) - expected).abs().max() / expected.abs().max()
    assert error < 1e-4, f"relative error {error:.2e}"
