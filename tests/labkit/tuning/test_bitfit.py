"""BitFit: the biases train, nothing else, and a model without any is told so."""

import pytest
import torch
from torch import nn

from labkit.model.minillm import MiniLLM
from labkit.tuning import bitfit, lora
from labkit.tuning.bitfit import BitfitConfig

from .llama import tiny_llama


def trainable(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_exactly_the_named_biases_train(gen: torch.Generator) -> None:
    model, x = tiny_llama(bias=True), torch.randint(97, (2, 11), generator=gen)
    plain = model(x).logits
    bitfit.apply(model, BitfitConfig())
    biases = {name for name, _ in model.named_parameters() if name.endswith(".bias")}
    assert trainable(model) == biases
    assert len(biases) == 2 * 4
    assert lora.trainable_parameters(model).trainable == 2 * (24 + 8 + 8 + 24)
    assert torch.equal(model(x).logits, plain)
    bitfit.apply(model, BitfitConfig(target_modules=("q_proj",)))
    assert trainable(model) == {f"model.layers.{i}.self_attn.q_proj.bias" for i in range(2)}


def test_only_biases_move(gen: torch.Generator) -> None:
    model, x = bitfit.apply(tiny_llama(bias=True), BitfitConfig()), torch.arange(9)[None]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(x, labels=x).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    for name, parameter in model.named_parameters():
        trains = name.endswith(".bias")
        assert (parameter.grad is not None) == trains, name
        if "k_proj" not in name:  # the same shift of every key leaves attention as it is, nearly
            assert torch.equal(parameter, before[name]) != trains, name


def test_a_model_without_biases_gets_zeros_only_if_asked(tiny_model: MiniLLM, gen) -> None:
    x = torch.randint(97, (2, 11), generator=gen)
    plain = tiny_model(x)
    with pytest.raises(ValueError, match=r"no bias matches.*Llama-shaped.*add=True"):
        bitfit.apply(tiny_model, BitfitConfig())
    assert all(p.requires_grad for p in tiny_model.parameters())
    bitfit.apply(tiny_model, BitfitConfig(target_modules="all-linear", add=True))
    assert torch.equal(tiny_model(x), plain)
    widths = 24 + 8 + 8 + 24 + 40 + 40 + 24
    assert lora.trainable_parameters(tiny_model).trainable == 3 * widths
    tiny_model(x).square().sum().backward()
    assert tiny_model.model.layers[0].mlp.up_proj.bias.grad.abs().max() > 0
    assert tiny_model.model.layers[0].mlp.up_proj.weight.grad is None


def test_existing_biases_are_kept_when_others_are_added() -> None:
    model = tiny_llama(bias=True)
    before = model.model.layers[0].self_attn.q_proj.bias.detach().clone()
    bitfit.apply(model, BitfitConfig(target_modules=("q_proj", "up_proj"), add=True))
    assert torch.equal(model.model.layers[0].self_attn.q_proj.bias, before)
    assert len(trainable(model)) == 4


def test_contradictions_are_refused() -> None:
    with pytest.raises(ValueError, match="add=True needs target_modules"):
        BitfitConfig(add=True)
    with pytest.raises(ValueError, match="target_modules is empty"):
        BitfitConfig(target_modules=())
    adapted = lora.apply(tiny_llama(bias=True), lora.LoraConfig())
    with pytest.raises(ValueError, match="LoRA adapters already"):
        bitfit.apply(adapted, BitfitConfig())
