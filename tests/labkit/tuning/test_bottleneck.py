"""Bottleneck adapters against their formula; PEFT has none."""

import dataclasses

import pytest
import torch
from torch import nn

from labkit.model.minillm import MiniLLM
from labkit.tuning import adapter_formats, bottleneck, lora
from labkit.tuning.bottleneck import Bottleneck, BottleneckConfig

from .llama import tiny_llama

R = 5
# Config, adapters a layer of tiny_llama gets, weights of each.
FORMS = {
    "houlsby": (bottleneck.houlsby(R), 2, R * (24 + 24) + R + 24),
    "pfeiffer": (bottleneck.pfeiffer(R), 1, R * (24 + 24) + R + 24),
    "parallel": (bottleneck.parallel(R), 1, R * (24 + 24) + R + 24),
}
every_form = pytest.mark.parametrize("form", FORMS)


def moved(model: nn.Module, gen: torch.Generator) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.5, generator=gen)
    return model


@pytest.mark.parametrize("form", ["sequential", "parallel"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_layer_and_gradients_equal_the_formula(form: str, activation: str, gen) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(6)
        base = nn.Linear(13, 7, dtype=torch.float64)
    config = BottleneckConfig(width=R, form=form, scaling=3.0, activation=activation)
    layer = moved(Bottleneck(base, config, generator=gen), gen)
    x = torch.randn(2, 5, 13, generator=gen, dtype=torch.float64)
    y = x @ base.weight.T + base.bias
    z = x if form == "parallel" else y
    assert layer.down.weight.shape == (R, z.shape[-1])
    f = getattr(torch.nn.functional, activation)
    expected = y + 3 * (f(z @ layer.down.weight.T + layer.down.bias) @ layer.up.weight.T)
    expected = expected + 3 * layer.up.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    ours = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
    theirs = torch.autograd.grad(expected.square().sum(), list(layer.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@every_form
def test_start_is_the_identity_on_both_models(form: str, tiny_model: MiniLLM, gen) -> None:
    config, per_layer, weights = FORMS[form]
    x, llama = torch.randint(97, (2, 11), generator=gen), tiny_llama()
    plain, logits = tiny_model(x), llama(x).logits
    assert torch.equal(bottleneck.apply(tiny_model, config)(x), plain)
    assert torch.equal(bottleneck.apply(llama, config)(x).logits, logits)
    assert len(bottleneck.layers(llama)) == 2 * per_layer
    assert lora.trainable_parameters(llama).trainable == 2 * per_layer * weights
    assert (moved(llama, gen)(x).logits - logits).abs().max() > 1e-2
    bottleneck.remove(llama)
    assert torch.equal(llama(x).logits, logits)
    assert list(llama.state_dict()) == list(tiny_llama().state_dict())


@every_form
def test_only_adapters_move(form: str, gen) -> None:
    model = bottleneck.apply(tiny_llama(), FORMS[form][0], generator=gen).train()
    x = torch.randint(97, (2, 11), generator=gen)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):  # in the first step W_down's gradient is zero, since W_up is
        optimizer.zero_grad()
        model(x, labels=x).loss.backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        trains = ".down." in name or ".up." in name
        assert torch.equal(parameter, before[name]) != trains, name
        assert (parameter.grad is not None) == trains, name


def test_forms_stand_where_their_papers_put_them() -> None:
    places = {}
    for form, (config, _, _) in FORMS.items():
        names = bottleneck.layers(bottleneck.apply(tiny_llama(), config))
        places[form] = {name.split(".", 3)[3] for name in names}
    assert places == {
        "houlsby": {"self_attn.o_proj", "mlp.down_proj"},
        "pfeiffer": {"mlp.down_proj"},
        "parallel": {"mlp"},
    }


def test_bfloat16_base_with_float32_adapters(gen) -> None:
    model = tiny_llama().bfloat16()
    bottleneck.apply(model, FORMS["parallel"][0], dtype=torch.float32)
    x = torch.randint(97, (2, 11), generator=gen)
    logits = moved(model, gen)(x).logits
    assert logits.dtype == torch.bfloat16
    logits.float().sum().backward()
    adapter = model.model.layers[0].mlp
    assert adapter.up.weight.dtype == adapter.down.weight.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "width=0"),
        ({"form": "serial"}, "form='serial' must be"),
        ({"target_modules": ()}, "target_modules is empty"),
        ({"scaling": 0.0}, "scaling=0.0"),
        ({"activation": "tanh"}, "activation='tanh' must be one of relu, gelu, silu"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(BottleneckConfig(), **changes)


def test_what_does_not_fit_is_refused() -> None:
    model = tiny_llama()
    with pytest.raises(ValueError, match=r"'mlp',.*matches no linear layer"):
        bottleneck.apply(model, BottleneckConfig(target_modules=("mlp",)))
    with pytest.raises(ValueError, match="matches no module with linear layers"):
        bottleneck.apply(model, BottleneckConfig(form="parallel", target_modules=("norm",)))
    assert all(p.requires_grad for p in model.parameters())
    bottleneck.apply(model, bottleneck.houlsby(R))
    with pytest.raises(ValueError, match="has bottleneck adapters already"):
        bottleneck.apply(model, bottleneck.houlsby(R))
    with pytest.raises(ValueError, match="a BottleneckConfig has no place in PEFT's files"):
        adapter_formats.of_config(bottleneck.houlsby(R))
    with pytest.raises(ValueError, match="no bottleneck adapters; call apply first"):
        bottleneck.layers(tiny_llama())
