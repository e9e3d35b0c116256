"""DoRA against its definition and PEFT's layer; its norm takes no gradient."""

import peft
import pytest
import torch
from torch import nn

from labkit.tuning import lora, qlora
from labkit.tuning.dora_layer import DoraLinear

RANK = 3
CONFIG = lora.LoraConfig(rank=RANK, alpha=5.0, use_dora=True)


def linear(bias: bool = True) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(6)
        return nn.Linear(13, 7, bias=bias)


def trained(base: nn.Linear, gen: torch.Generator) -> DoraLinear:
    layer = DoraLinear(base, CONFIG, generator=gen)
    nn.init.normal_(layer.lora_B.weight, generator=gen)
    nn.init.uniform_(layer.lora_magnitude_vector, 0.5, 2.0, generator=gen)
    return layer


def test_layer_equals_its_definition_in_float64(gen: torch.Generator) -> None:
    base = linear().double()
    layer = trained(base, gen)
    x = torch.randn(2, 5, 13, generator=gen, dtype=torch.float64)
    V = base.weight + 5.0 / RANK * layer.lora_B.weight @ layer.lora_A.weight
    lengths = zip(layer.lora_magnitude_vector, V, strict=True)
    rows = [m * v / v.square().sum().sqrt() for m, v in lengths]
    expected = x @ torch.stack(rows).T + base.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.merged_weight(), torch.stack(rows), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
def test_layer_and_gradients_equal_pefts(bias: bool, gen: torch.Generator) -> None:
    holder = nn.Sequential(linear(bias))
    layer = trained(holder[0], gen)
    settings = peft.LoraConfig(r=RANK, lora_alpha=5, target_modules=["0"], use_dora=True)
    oracle = peft.get_peft_model(holder, settings).base_model.model[0]
    pairs = [
        (oracle.lora_A["default"].weight, layer.lora_A.weight),
        (oracle.lora_B["default"].weight, layer.lora_B.weight),
        (oracle.lora_magnitude_vector["default"].weight, layer.lora_magnitude_vector),
    ]
    for theirs, ours in pairs:
        theirs.data.copy_(ours)
    x = torch.randn(2, 5, 13, generator=gen)
    torch.testing.assert_close(layer(x), oracle(x), rtol=1e-5, atol=1e-6)
    layer(x).square().sum().backward()
    oracle(x).square().sum().backward()
    for theirs, ours in pairs:
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)


def test_norm_takes_no_gradient(gen: torch.Generator) -> None:
    """With the norm c constant, dy/dB is m / c times LoRA's; the full derivative is another."""
    layer = trained(linear(), gen)
    x = torch.randn(4, 13, generator=gen)
    G = torch.randn(4, 7, generator=gen)
    (layer(x) * G).sum().backward()
    V = layer.moved(layer.base_layer.weight).detach()
    scale = layer.lora_magnitude_vector / V.norm(dim=1)
    expected = CONFIG.scaling * scale[:, None] * (G.T @ x @ layer.lora_A.weight.T)
    torch.testing.assert_close(layer.lora_B.weight.grad, expected, rtol=1e-4, atol=1e-5)


def test_dropout_spares_the_magnitudes_at_evaluation(gen: torch.Generator) -> None:
    config = lora.LoraConfig(rank=RANK, dropout=0.5, use_dora=True)
    layer = DoraLinear(linear(), config, generator=gen)
    x = torch.ones(4, 13)
    assert torch.equal(layer.eval()(x), layer.base_layer(x))
    assert layer.train()(x).std(0).max() < 1e-6  # at the start dropout has nothing to act on
    layer.eval()
    nn.init.normal_(layer.lora_B.weight, generator=gen)
    assert layer(x).std(0).max() < 1e-6
    assert layer.train()(x).std(0).min() > 0


def test_sits_on_a_packed_base(gen: torch.Generator) -> None:
    model = nn.ModuleDict({"q_proj": linear()})
    config = qlora.QloraConfig(lora=lora.LoraConfig(rank=RANK, use_dora=True))
    qlora.apply(model, config, generator=gen)
    x = torch.randn(2, 3, 13, generator=gen)
    layer = model["q_proj"]
    assert torch.equal(layer(x), layer.base_layer(x))
    nn.init.normal_(layer.lora_B.weight, generator=gen)
    changed = layer(x)
    changed.sum().backward()
    assert layer.lora_magnitude_vector.grad.abs().min() > 0
    lora.merge_and_unload(model)
    torch.testing.assert_close(model["q_proj"](x), changed, rtol=1e-5, atol=1e-5)
