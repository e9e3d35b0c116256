"""NF4 and FP4 against bitsandbytes, bit for bit, and against a search of every code."""

import bitsandbytes
import pytest
import torch
from bitsandbytes import functional as bnb

from labkit.quant import blockwise, nf4

CODES = {"nf4": nf4.NF4_CODES, "fp4": nf4.BNB_FP4_CODES}


def weights(gen: torch.Generator, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """Rows of different size, with a block of zeros and a block of one sign."""
    weight = 0.02 * torch.randn(shape, generator=gen)
    weight *= torch.logspace(-2, 1, shape[0])[:, None]
    weight.view(-1)[:64] = 0
    weight.view(-1)[64:128].abs_()
    return weight.to(dtype)


def test_codes_equal_bitsandbytes() -> None:
    assert torch.equal(nf4.NF4_CODES, bnb.get_4bit_type("nf4", device="cpu"))
    assert torch.equal(nf4.BNB_FP4_CODES, bnb.get_4bit_type("fp4", device="cpu"))
    assert torch.equal(blockwise.DYNAMIC_MAP, bnb.create_dynamic_map())
    unsigned = bnb.create_dynamic_map(signed=False)
    assert torch.equal(blockwise.UNSIGNED_DYNAMIC_MAP, unsigned)


def test_nf4_codes_are_the_quantiles_of_the_formula() -> None:
    torch.testing.assert_close(nf4.normal_float_codes(), nf4.NF4_CODES, rtol=1e-5, atol=1e-6)


def test_fp4_codes_are_those_of_e2m1() -> None:
    bits = torch.arange(16)
    sign, exponent, mantissa = 1 - 2 * (bits >> 3), (bits >> 1) & 3, bits & 1
    subnormal = mantissa / 2
    normal = (1 + mantissa / 2) * 2.0 ** (exponent - 1)
    values = sign * torch.where(exponent == 0, subnormal, normal)
    assert torch.equal(nf4.FP4_CODES, values / 6)


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(7, 130), (96, 576), (11, 192)])
@pytest.mark.parametrize("kind", CODES)
def test_bytes_and_values_equal_bitsandbytes(kind, shape, dtype, double_quant, gen) -> None:
    weight = weights(gen, shape, dtype)
    got = nf4.quantize_codebook(weight, CODES[kind], 64, double_quant)
    packed, state = bnb.quantize_4bit(
        weight, blocksize=64, quant_type=kind, compress_statistics=double_quant
    )
    assert torch.equal(got.packed, packed.flatten())
    if double_quant:
        state.absmax = exact_statistics(weight, kind, state)
    expected = bnb.dequantize_4bit(packed, state)
    assert got.dequantize().dtype == dtype
    assert torch.equal(got.dequantize(), expected)


def exact_statistics(weight: torch.Tensor, kind: str, state: bnb.QuantState) -> torch.Tensor:
    """bitsandbytes' 8-bit scales from its exact kernel, the one it has for float64.

    Its float32 CPU kernel takes the second nearest code where two are almost equally near.
    """
    _, plain = bnb.quantize_4bit(weight, blocksize=64, quant_type=kind)
    centred = plain.absmax - state.offset
    code = state.state2.code
    exact, _ = torch.ops.bitsandbytes.quantize_blockwise.default(centred.double(), code, 256)
    assert ((exact.int() - state.absmax.int()).abs() <= 1).all()
    assert (exact != state.absmax).float().mean() < 0.01
    return exact


def test_linear4bit_holds_the_same_weight(gen) -> None:
    weight = weights(gen, (24, 130), torch.float32)
    theirs = bitsandbytes.nn.Linear4bit(130, 24, bias=False, quant_type="nf4")
    theirs.weight = bitsandbytes.nn.Params4bit(weight.clone(), quant_type="nf4")
    theirs.to("cpu")
    got = nf4.quantize_nf4(weight)
    expected = bnb.dequantize_4bit(theirs.weight.data, theirs.weight.quant_state)
    assert torch.equal(got.dequantize(), expected)


@pytest.mark.parametrize("block_size", [64, 45, 1000])
@pytest.mark.parametrize("codes", [nf4.NF4_CODES, nf4.FP4_CODES, nf4.BNB_FP4_CODES])
def test_every_weight_goes_to_the_nearest_code(codes, block_size, gen, monkeypatch) -> None:
    monkeypatch.setattr(blockwise, "_CHUNK_WEIGHTS", 192)  # several chunks, and a ragged one
    weight = weights(gen, (7, 131), torch.float32)
    got = nf4.quantize_codebook(weight, codes, block_size).dequantize()
    for values, approximated in zip(
        weight.flatten().split(block_size), got.flatten().split(block_size), strict=True
    ):
        largest = values.double().abs().max()
        best = (values.double()[:, None] - largest * codes.double()).abs().amin(1)
        error = (values.double() - approximated.double()).abs()
        torch.testing.assert_close(error, best, rtol=1e-5, atol=1e-6 * largest.item())


def test_nf4_beats_fp4_on_normal_weights(gen) -> None:
    weight = torch.randn(60, 640, generator=gen)

    def rms(codes: torch.Tensor) -> float:
        error = nf4.quantize_codebook(weight, codes).dequantize() - weight
        return error.square().mean().sqrt().item()

    assert rms(nf4.NF4_CODES) == pytest.approx(0.0922, rel=0.02)  # Gaussian, blocks of 64
    assert rms(nf4.BNB_FP4_CODES) == pytest.approx(0.1222, rel=0.02)
    assert rms(nf4.NF4_CODES) < rms(nf4.FP4_CODES) < rms(nf4.BNB_FP4_CODES)


def test_double_quantization_takes_0_127_bits_instead_of_0_5(gen) -> None:
    weight = torch.randn(192, 64 * 256, generator=gen)
    plain = nf4.quantize_nf4(weight, double_quant=False)
    double = nf4.quantize_nf4(weight)
    n, blocks = weight.numel(), weight.numel() // 64
    assert plain.overhead_bits_per_weight == 0.5
    assert double.overhead_bits_per_weight == pytest.approx(0.127, abs=1e-4)
    assert plain.nbytes == n // 2 + 4 * blocks
    assert double.nbytes == n // 2 + blocks + 4 * blocks // 256 + 4
    difference = (double.dequantize() - plain.dequantize()).abs().max()
    assert 0 < difference < 0.02 * weight.abs().max()


def test_input_is_left_alone(gen) -> None:
    weight = weights(gen, (7, 130), torch.float32)
    before = weight.clone()
    quantized = nf4.quantize_nf4(weight)
    assert torch.equal(quantized.dequantize(), quantized.dequantize())
    assert torch.equal(weight, before)


def test_wrong_input_is_refused(gen) -> None:
    weight = weights(gen, (7, 130), torch.float32)
    with pytest.raises(ValueError, match="block_size=0 must be at least 1"):
        nf4.quantize_nf4(weight, block_size=0)
    weight[3, 4] = float("nan")
    with pytest.raises(ValueError, match="1 of 910 weights are not finite"):
        nf4.quantize_nf4(weight)
