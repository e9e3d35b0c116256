"""UniPELT: with open gates its parts, with closed ones nothing, and never a look ahead."""

import pytest
import torch
from torch import nn

from labkit.model.minillm import MiniLLM
from labkit.tuning import bottleneck, lora, prefix_tuning, unipelt
from labkit.tuning.prefix_tuning import PrefixTuningConfig
from labkit.tuning.unipelt import UnipeltConfig

from .llama import tiny_llama

CONFIG = UnipeltConfig(
    lora=lora.LoraConfig(rank=4, alpha=7.0),
    adapter=bottleneck.pfeiffer(5),
    prefix=PrefixTuningConfig(num_virtual_tokens=3),
)
OPEN, CLOSED = 40.0, -40.0


def ids(gen: torch.Generator) -> torch.Tensor:
    return torch.randint(97, (2, 11), generator=gen)


def moved(model: nn.Module, gen: torch.Generator) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.5, generator=gen)
    return model


def set_gates(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, unipelt.Gate):
                module.weight.zero_()
                module.bias.fill_(value)
        model.soft_prompt.gate_bias.fill_(value)


def test_open_gates_give_the_three_parts(gen: torch.Generator) -> None:
    model, x = moved(unipelt.apply(tiny_llama(), CONFIG), gen), ids(gen)
    set_gates(model, OPEN)
    parts = prefix_tuning.apply(tiny_llama(), CONFIG.prefix)
    with torch.no_grad():
        parts.soft_prompt.prompt_embeddings.copy_(model.soft_prompt.prompt_embeddings)
    for name, module in model.named_modules():
        if isinstance(module, unipelt.GatedLora):
            A, B = module.lora_A.weight.detach(), module.lora_B.weight.detach()
            parts.get_submodule(name).weight.data.add_(B @ A, alpha=7 / 4)
        elif isinstance(module, unipelt.GatedBottleneck):
            parts.get_submodule(name).register_forward_hook(
                lambda _, args, y, layer=module: y + layer.up(layer.down(y).relu())
            )
    torch.testing.assert_close(model(x).logits, parts(x).logits, rtol=1e-4, atol=1e-5)


def test_closed_gates_leave_a_prefix_of_zeros(gen: torch.Generator) -> None:
    model, x = moved(unipelt.apply(tiny_llama(), CONFIG), gen), ids(gen)
    set_gates(model, CLOSED)
    zero = prefix_tuning.apply(tiny_llama(), CONFIG.prefix)
    nn.init.zeros_(zero.soft_prompt.prompt_embeddings)
    torch.testing.assert_close(model(x).logits, zero(x).logits, rtol=1e-5, atol=1e-6)


def test_gated_layers_equal_their_formulas(gen: torch.Generator) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(6)
        base = nn.Linear(13, 7, dtype=torch.float64)
    x = torch.randn(2, 5, 13, generator=gen, dtype=torch.float64)
    y = x @ base.weight.T + base.bias
    layer = moved(unipelt.GatedLora(lora.LoraLinear(base.requires_grad_(False), CONFIG.lora)), gen)
    gate = torch.sigmoid(x @ layer.gate.weight + layer.gate.bias)[..., None]
    change = 7 / 4 * (x @ layer.lora_A.weight.T @ layer.lora_B.weight.T)
    torch.testing.assert_close(layer(x), y + gate * change, rtol=1e-12, atol=1e-12)
    adapter = moved(unipelt.GatedBottleneck(base, CONFIG.adapter), gen)
    gate = torch.sigmoid(y @ adapter.gate.weight + adapter.gate.bias)[..., None]
    inner = (y @ adapter.down.weight.T + adapter.down.bias).relu()
    change = inner @ adapter.up.weight.T + adapter.up.bias
    torch.testing.assert_close(adapter(x), y + gate * change, rtol=1e-12, atol=1e-12)


def test_no_token_sees_its_future_through_a_gate(tiny_model: MiniLLM, gen) -> None:
    moved(unipelt.apply(tiny_model, CONFIG), gen)
    x = ids(gen)
    other = x.clone()
    other[:, 6:] = (other[:, 6:] + 1) % 97
    before, after = tiny_model(x), tiny_model(other)
    torch.testing.assert_close(before[:, :6], after[:, :6], rtol=1e-5, atol=1e-5)
    assert (before[:, 6:] - after[:, 6:]).abs().max() > 1e-2


def test_start_count_and_removal(gen: torch.Generator) -> None:
    model, x = unipelt.apply(tiny_llama(), CONFIG), ids(gen)
    gates = unipelt.gates(model)
    assert len(gates) == 2 * 3 + 1
    assert all(torch.all(gate == 0.5) for gate in gates.values())
    scaled = prefix_tuning.apply(tiny_llama(), CONFIG.prefix)
    with torch.no_grad():
        scaled.soft_prompt.prompt_embeddings.copy_(model.soft_prompt.prompt_embeddings / 2)
    torch.testing.assert_close(model(x).logits, scaled(x).logits, rtol=0, atol=1e-7)
    per_layer = 4 * (24 + 24) + 4 * (24 + 8) + 5 * (24 + 24) + 5 + 24 + 3 * (24 + 1) + 1
    assert lora.trainable_parameters(model).trainable == 2 * per_layer + 3 * 2 * 2 * 8
    unipelt.remove(model)
    assert torch.equal(model(x).logits, tiny_llama()(x).logits)
    assert list(model.state_dict()) == list(tiny_llama().state_dict())


def test_only_the_parts_and_their_gates_move(gen: torch.Generator) -> None:
    model, x = unipelt.apply(tiny_llama(), CONFIG).train(), ids(gen)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):  # a gate's gradient is zero until what it scales is not
        optimizer.zero_grad()
        model(x, labels=x).loss.backward()
        optimizer.step()
    marks = ("lora_", ".gate.", ".up.", ".down.", "soft_prompt")
    for name, parameter in model.named_parameters():
        trains = any(mark in name for mark in marks)
        assert torch.equal(parameter, before[name]) != trains, name
        assert (parameter.grad is not None) == trains, name


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="use_dora=True and bias='none'"):
        UnipeltConfig(lora=lora.LoraConfig(use_dora=True))
    both = UnipeltConfig(lora=lora.LoraConfig(target_modules=("down_proj",)))
    model = tiny_llama()
    with pytest.raises(ValueError, match=r"down_proj lies in what lora and what adapter target"):
        unipelt.apply(model, both)
    assert all(p.requires_grad for p in model.parameters())
    applied = unipelt.apply(tiny_llama(), CONFIG)
    with pytest.raises(ValueError, match="no LoRA adapters"):
        lora.merge(applied)
    with pytest.raises(ValueError, match="has UniPELT adapters already"):
        unipelt.apply(applied, CONFIG)
    with pytest.raises(ValueError, match="no UniPELT prompt"):
        unipelt.gates(tiny_llama())
