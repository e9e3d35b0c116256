"""QLoRA on a transformers Llama, against the same model with dequantized weights."""

import copy

import pytest
import torch
import transformers
from torch import nn

from labkit.quant import linear, nf4
from labkit.tuning import lora, qlora

from .llama import tiny_llama

TARGETS = ("q_proj", "v_proj", "down_proj")
CONFIG = qlora.QloraConfig(lora=lora.LoraConfig(rank=3, alpha=5.0, target_modules=TARGETS))


def dequantized_twin() -> transformers.LlamaForCausalLM:
    model = tiny_llama()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            module.weight.data = nf4.quantize_nf4(module.weight.detach()).dequantize()
    return lora.apply(model, CONFIG.lora)


def filled(model: nn.Module, gen: torch.Generator) -> nn.Module:
    for layer in lora.layers(model).values():
        nn.init.normal_(layer.lora_B.weight, std=0.05, generator=gen)
    return model


@pytest.fixture
def ids(gen: torch.Generator) -> torch.Tensor:
    return torch.randint(97, (2, 11), generator=gen)


def test_every_linear_but_the_head_is_packed() -> None:
    model = qlora.apply(tiny_llama(), CONFIG)
    packed = [n for n, m in model.named_modules() if isinstance(m, linear.CodebookLinear)]
    assert len(packed) == 2 * 7
    assert sum(name.endswith("base_layer") for name in packed) == 2 * len(TARGETS)
    assert isinstance(model.lm_head, nn.Linear)
    dense = tiny_llama()
    counts = lora.trainable_parameters(model)
    assert counts.trainable == 2 * 3 * ((24 + 24) + (24 + 8) + (40 + 24))
    assert counts.total == counts.trainable + sum(p.numel() for p in dense.parameters())


def test_adapters_start_as_the_identity(ids) -> None:
    model = qlora.apply(tiny_llama(), CONFIG)
    with lora.disabled(model):
        base = model(ids).logits
    assert torch.equal(model(ids).logits, base)
    assert not torch.equal(base, tiny_llama()(ids).logits)


def test_outputs_and_gradients_equal_those_over_dequantized_weights(ids) -> None:
    models = qlora.apply(tiny_llama(), CONFIG), dequantized_twin()
    for model in models:
        filled(model, torch.Generator().manual_seed(8))(ids, labels=ids).loss.backward()
    got, expected = models
    torch.testing.assert_close(got(ids).logits, expected(ids).logits, rtol=1e-5, atol=1e-6)
    twins = dict(expected.named_parameters())
    for name, parameter in got.named_parameters():
        if "lora_" in name:
            torch.testing.assert_close(parameter.grad, twins[name].grad, rtol=1e-4, atol=1e-7)
        else:
            assert parameter.grad is None


def test_training_lowers_the_loss_and_leaves_the_base(ids) -> None:
    model = qlora.apply(tiny_llama(), CONFIG).train()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())


def test_merging_needs_dense_layers(ids, gen) -> None:
    model = filled(qlora.apply(tiny_llama(), CONFIG), gen)
    adapted = model(ids).logits
    with pytest.raises(ValueError, match=r"CodebookLinear cannot absorb .* use merge_and_unload"):
        lora.merge(model)
    lora.merge_and_unload(model)
    assert type(model.model.layers[0].self_attn.q_proj) is nn.Linear
    assert isinstance(model.model.layers[0].self_attn.k_proj, linear.CodebookLinear)
    torch.testing.assert_close(model(ids).logits, adapted, rtol=1e-5, atol=1e-5)


def test_double_quantization_and_codebooks_change_the_base() -> None:
    weights = set()
    for codebook in ("nf4", "fp4", "bnb_fp4"):
        for double_quant in (False, True):
            config = qlora.QloraConfig(
                lora=CONFIG.lora, codebook=codebook, double_quant=double_quant
            )
            model = qlora.apply(tiny_llama(), config)
            weights.add(model.model.layers[0].mlp.up_proj.dequantize().double().abs().sum().item())
    assert len(weights) == 6


def test_wrong_input_is_refused_before_anything_is_packed() -> None:
    with pytest.raises(ValueError, match="codebook='int4' must be one of nf4, fp4, bnb_fp4"):
        qlora.QloraConfig(codebook="int4")
    with pytest.raises(ValueError, match="block_size=0"):
        qlora.QloraConfig(block_size=0)
    model = tiny_llama()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="rank=9 exceeds"):
        qlora.apply(model, qlora.QloraConfig(lora=lora.LoraConfig(rank=9)))
    assert list(model.state_dict()) == list(before)
