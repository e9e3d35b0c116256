"""MAM is its two parts together, no more."""

import pytest
import torch
from torch import nn

from labkit.model.minillm import MiniLLM
from labkit.tuning import bottleneck, lora, mam, prefix_tuning
from labkit.tuning.mam import MamConfig
from labkit.tuning.prefix_tuning import PrefixTuningConfig

from .llama import tiny_llama

CONFIG = MamConfig(prefix=PrefixTuningConfig(num_virtual_tokens=3), adapter=bottleneck.parallel(5))


def test_equals_a_prefix_and_a_parallel_adapter_put_on_by_hand(gen: torch.Generator) -> None:
    model, x = mam.apply(tiny_llama(), CONFIG), torch.randint(97, (2, 11), generator=gen)
    only_prefix = prefix_tuning.apply(tiny_llama(), CONFIG.prefix)
    assert torch.equal(model(x).logits, only_prefix(x).logits)  # the adapters start at zero
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.5, generator=gen)
    adapters = bottleneck.layers(model)
    for name, layer in adapters.items():
        only_prefix.get_submodule(name).register_forward_hook(
            lambda _, args, out, layer=layer: out + 4 * layer.up(layer.down(args[0]).relu())
        )
    only_prefix.soft_prompt.load_state_dict(model.soft_prompt.state_dict())
    torch.testing.assert_close(model(x).logits, only_prefix(x).logits, rtol=1e-5, atol=1e-6)
    assert lora.trainable_parameters(model).trainable == (
        3 * 2 * 2 * 8 + 2 * (5 * (24 + 24) + 5 + 24)
    )


def test_trains_on_minillm_and_leaves_the_base_alone(tiny_model: MiniLLM, gen) -> None:
    x = torch.randint(97, (2, 11), generator=gen)
    with torch.no_grad():
        plain = tiny_model(x)
    names = list(tiny_model.state_dict())
    mam.apply(tiny_model, CONFIG, generator=gen)(x).square().sum().backward()
    for name, parameter in tiny_model.named_parameters():
        trains = ".up." in name or ".down." in name or "soft_prompt" in name
        assert (parameter.grad is not None) == trains == parameter.requires_grad, name
    mam.remove(tiny_model)
    assert torch.equal(tiny_model(x), plain)
    assert list(tiny_model.state_dict()) == names


def test_refusals_leave_the_model_as_it_was() -> None:
    with pytest.raises(ValueError, match="MAM's adapter is parallel"):
        MamConfig(adapter=bottleneck.houlsby(5))
    model = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="matches no module"):
        mam.apply(model, CONFIG)
    llama = mam.apply(tiny_llama(), CONFIG)
    with pytest.raises(ValueError, match="adapters already"):
        mam.apply(llama, CONFIG)
