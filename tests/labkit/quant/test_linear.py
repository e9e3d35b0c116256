"""Packed linears: products and gradients of the expanded weight, bytes by the formula."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from labkit.quant import affine, linear, nf4
from labkit.quant.affine import AffineConfig

AFFINE = [
    AffineConfig(bits=bits, symmetric=symmetric, granularity=granularity, group_size=size)
    for bits in (2, 3, 4, 5, 8)
    for symmetric in (False, True)
    for granularity, size in (("tensor", None), ("channel", None), ("group", 10))
]
ROWS, COLUMNS = 7, 130


def dense(dtype: torch.dtype = torch.float32, *, bias: bool = True) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(6)
        return nn.Linear(COLUMNS, ROWS, bias=bias, dtype=dtype)


def nf4_linear(layer: nn.Linear, *, double_quant: bool = True) -> linear.CodebookLinear:
    quantized = nf4.quantize_nf4(layer.weight.detach(), double_quant=double_quant)
    return linear.CodebookLinear(quantized, layer.bias)


def test_only_a_layer_that_can_expand_its_weight_is_made() -> None:
    with pytest.raises(TypeError, match=r"abstract.*dequantize"):
        linear.FrozenLinear((ROWS, COLUMNS), torch.float32, None)


@pytest.mark.parametrize("config", AFFINE, ids=str)
def test_forward_equals_fake_quantization(config, gen) -> None:
    layer = dense()
    x = torch.randn(2, 5, COLUMNS, generator=gen)
    expected = functional.linear(x, affine.fake_quantize(layer.weight.detach(), config), layer.bias)
    packed = linear.from_linear(layer, config)
    torch.testing.assert_close(packed(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("config", AFFINE, ids=str)
def test_bytes_are_what_the_formula_says(config) -> None:
    packed = linear.from_linear(dense(), config)
    grids = {"tensor": 1, "channel": ROWS, "group": ROWS * COLUMNS // 10}[config.granularity]
    bytes_per_grid = 4 if config.symmetric else 5
    assert packed.nbytes == -(-ROWS * COLUMNS * config.bits // 8) + grids * bytes_per_grid
    assert packed.nbytes == packed.quantized.nbytes
    original = affine.quantize(dense().weight.detach(), config)
    assert torch.equal(packed.quantized.codes, original.codes)


@pytest.mark.parametrize("double_quant", [False, True])
def test_codebook_linear_holds_its_tensor(double_quant) -> None:
    layer = dense()
    tensor = nf4.quantize_nf4(layer.weight.detach(), double_quant=double_quant)
    packed = nf4_linear(layer, double_quant=double_quant)
    assert packed.nbytes == tensor.nbytes
    assert torch.equal(packed.dequantize(), tensor.dequantize())


@pytest.mark.parametrize("make", [nf4_linear, lambda d: linear.from_linear(d, AFFINE[2])])
def test_gradients_equal_those_through_the_dense_weight(make, gen) -> None:
    packed = make(dense())
    packed.bias.requires_grad_(True)
    twin = dense()
    twin.weight.data.copy_(packed.dequantize())
    x = torch.randn(2, 5, COLUMNS, generator=gen, requires_grad=True)
    y = x.detach().clone().requires_grad_(True)
    packed(x).square().sum().backward()
    twin(y).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(packed.bias.grad, twin.bias.grad, rtol=1e-6, atol=1e-6)
    assert [name for name, _ in packed.named_parameters()] == ["bias"]


def test_no_dense_weight_is_kept_for_the_backward_pass(gen) -> None:
    packed = nf4_linear(dense())
    x = torch.randn(2, 5, COLUMNS, generator=gen, requires_grad=True)
    saved: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape), lambda t: t):
        packed(x)
    assert (ROWS, COLUMNS) not in saved


@pytest.mark.parametrize("make", [nf4_linear, lambda d: linear.from_linear(d, AFFINE[3])])
def test_changing_the_dtype_leaves_the_packed_weight(make, gen) -> None:
    packed = make(dense(bias=False))
    before = packed.dequantize()
    x = torch.randn(2, 5, COLUMNS, generator=gen, dtype=torch.bfloat16)
    out = packed.bfloat16()(x)
    assert out.dtype == torch.bfloat16
    assert torch.equal(packed.dequantize(), before)
    assert torch.equal(out, functional.linear(x, before.bfloat16()))


@pytest.mark.parametrize("make", [nf4_linear, lambda d: linear.from_linear(d, AFFINE[8])])
def test_autocast_gives_bfloat16_products_and_float32_gradients(make, gen) -> None:
    packed = make(dense())
    x = torch.randn(2, 5, COLUMNS, generator=gen, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = packed(x)
    out.float().sum().backward()
    assert x.grad.dtype == torch.float32
    expected = packed.dequantize().sum(0).expand_as(x)
    torch.testing.assert_close(x.grad, expected, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("make", [nf4_linear, lambda d: linear.from_linear(d, AFFINE[5])])
def test_state_dict_round_trip(make) -> None:
    source = make(dense())
    other = dense()
    other.weight.data.mul_(-3)
    target = make(other)
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.dequantize(), source.dequantize())


def test_quantize_model_replaces_all_but_the_skipped() -> None:
    model = nn.ModuleDict({"up": dense(), "lm_head": dense(), "norm": nn.LayerNorm(COLUMNS)}).eval()
    config = AffineConfig(bits=4, granularity="group", group_size=13)
    assert linear.quantize_model(model, config) is model
    assert isinstance(model["up"], linear.QuantLinear)
    assert not model["up"].training
    assert isinstance(model["lm_head"], nn.Linear)
    assert repr(model["up"]) == "QuantLinear(130 -> 7, 7.08 bits per weight)"


def test_quantized_minillm_equals_one_with_rounded_weights(tiny_model, gen) -> None:
    config = AffineConfig(bits=4, granularity="channel")
    ids = torch.randint(97, (2, 11), generator=gen)
    twin = copy.deepcopy(tiny_model)
    for name, module in twin.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            module.weight.data = affine.fake_quantize(module.weight.detach(), config)
    got = linear.quantize_model(tiny_model, config)(ids)
    torch.testing.assert_close(got, twin(ids), rtol=1e-5, atol=1e-6)


def test_quantize_model_changes_nothing_when_one_layer_fails() -> None:
    model = nn.ModuleDict({"up": dense(), "down": nn.Linear(ROWS, COLUMNS)})
    config = AffineConfig(bits=4, granularity="group", group_size=13)
    with pytest.raises(ValueError, match=r"down: group_size=13 .* 7 columns; divisors are 1, 7"):
        linear.quantize_model(model, config)
    assert all(type(layer) is nn.Linear for layer in model.values())
    with pytest.raises(ValueError, match="no linear layer to quantize in a LayerNorm"):
        linear.quantize_model(nn.LayerNorm(3), config)
