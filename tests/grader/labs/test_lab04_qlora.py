"""Lab 04: other right ways pass, other libraries agree, faults are told, the envelope fits."""

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import bitsandbytes.functional as bnb
import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from grader.checks.core import HIDDEN_SEEDS, PUBLIC_SEED, load_lab, run_check, verdicts
from grader.course import Course
from grader.labs.lab04_qlora import inputs, outside, recipe, reference
from labkit.model.minillm import MiniLLM
from labkit.quant.blockwise import DYNAMIC_MAP, UNSIGNED_DYNAMIC_MAP
from labkit.quant.nf4 import NF4_CODES, DoubleQuantizedScales, normal_float_codes, quantize_nf4
from labkit.tuning import loftq, qlora
from labkit.tuning.adam8bit import Adam8bit
from labkit.tuning.lora import LoraConfig

LAB = load_lab("lab04_qlora")
SEEDS = (PUBLIC_SEED, *HIDDEN_SEEDS, *range(12))
MAPS = DYNAMIC_MAP, UNSIGNED_DYNAMIC_MAP


def levels_by_scipy(bits: int, outermost: float | None = None) -> Tensor:
    half = 2 ** (bits - 1)
    if outermost is None:
        outermost = float(np.mean([1 - 0.5 / (2 * half), 1 - 0.5 / (2 * half - 1)]))
    above, below = (
        norm.ppf([0.5 + (outermost - 0.5) * k / count for k in range(1, count + 1)])
        for count in (half, half - 1)
    )
    return torch.tensor([*-below[::-1], 0, *above], dtype=torch.float64).div(above[-1]).float()


def places_by_distance(values: np.ndarray, levels: Tensor, size: int) -> tuple[Any, Any]:
    """Nearest of all levels, and largest magnitudes, block by block."""
    places, largest = [], []
    for start in range(0, len(values), size):
        block = values[start : start + size].astype(np.float64)
        largest.append(np.abs(block).max())
        unit = block / (largest[-1] or 1.0)
        places.append(np.abs(unit[:, None] - levels.double().numpy()).argmin(1))
    return np.concatenate(places).astype(np.uint8), np.array(largest, dtype=np.float32)


def packed_as_hexadecimal(weight: Tensor, codes: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    flat = weight.float().numpy().reshape(-1)
    places, absmax = places_by_distance(flat, codes, block_size)
    digits = "".join(f"{place:x}" for place in places)
    held = bytearray.fromhex(digits + "0" * (len(digits) % 2))
    return torch.frombuffer(held, dtype=torch.uint8), torch.from_numpy(absmax)


def unpacked_digit_by_digit(
    packed: Tensor, absmax: Tensor, codes: Tensor, block_size: int, shape: Any, dtype: Any
) -> Tensor:
    digits = bytes(packed.tolist()).hex()[: shape[0] * shape[1]]
    values = [codes[int(d, 16)] * absmax[i // block_size] for i, d in enumerate(digits)]
    return torch.stack(values).view(shape).to(dtype)


def scales_in_numpy(absmax: Tensor, table: Tensor, block_size: int = 256) -> tuple[Tensor, ...]:
    offset = absmax.numpy().mean(dtype=np.float64)
    codes, second = places_by_distance(absmax.numpy() - offset, table, block_size)
    restored = table.numpy()[codes] * np.repeat(second, block_size)[: len(codes)] + offset
    arrays = codes, second, np.float32(offset), restored.astype(np.float32)
    return tuple(torch.from_numpy(np.asarray(x)) for x in arrays)


class ProductByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, expand: Callable[[], Tensor]) -> Tensor:
        ctx.expand = expand
        return torch.einsum("...i,oi->...o", x, expand().to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return torch.einsum("...o,oi->...i", grad, ctx.expand().to(grad.dtype)), None


def adam_in_float64(
    grad: Tensor, state: Any, step: int, tables: Any, lr: float,
    betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, block_size: int = 256,
) -> Any:  # fmt: skip
    n, after, moments = len(grad), [], []
    for index, power in enumerate((1, 2)):
        old = np.zeros(n)
        if state is not None:
            codes, absmax = (part.numpy() for part in state[index])
            old = tables[index].double().numpy()[codes] * np.repeat(absmax, block_size)[:n]
        new = betas[index] * old + (1 - betas[index]) * grad.double().numpy() ** power
        moments.append(new / (1 - betas[index] ** step))
        places, largest = places_by_distance(new, tables[index], block_size)
        if index == 1:
            places[(places == 0) & (new > 0)] = 1
        after.append((torch.from_numpy(places), torch.from_numpy(largest)))
    change = -lr * moments[0] / (np.sqrt(moments[1]) + eps)
    return torch.from_numpy(change.astype(np.float32)), tuple(after)


def factors_by_eigenvectors(
    weight: Tensor, quantize: Any, rank: int, scaling: float, rounds: int
) -> tuple[Tensor, Tensor, Tensor]:
    explained = torch.zeros_like(weight).double()
    for _ in range(rounds):
        quantized = quantize((weight - explained).float())
        lost = (weight - quantized).double()
        values, vectors = torch.linalg.eigh(lost.T @ lost)
        right, sigma = vectors[:, -rank:], values[-rank:].sqrt()
        explained = lost @ right @ right.T
        A = (sigma / scaling).sqrt()[:, None] * right.T
        B = lost @ right / (sigma * scaling).sqrt()
    return quantized, A.float(), B.float()


@pytest.mark.parametrize(
    ("name", "impl"),
    [
        ("normal_float", levels_by_scipy),
        ("pack_weight", packed_as_hexadecimal),
        ("unpack_weight", unpacked_digit_by_digit),
        ("double_quantize", scales_in_numpy),
        ("frozen_product", ProductByHand),
        ("adam8bit_update", adam_in_float64),
        ("loftq", factors_by_eigenvectors),
    ],
)
def test_other_right_ways_pass(name: str, impl: Callable[..., Any]) -> None:
    assert verdicts(LAB.check(name), impl, SEEDS).message == ""


@pytest.mark.parametrize(
    ("name", "impl", "message"),
    [
        ("pack_weight", lambda weight, *_: weight, "(packed, absmax)"),
        ("adam8bit_update", lambda grad, *_, **__: (grad, (grad, grad)), "(codes, absmax)"),
        ("frozen_product", lambda x, expand: x, "torch.autograd.Function"),
    ],
)
def test_another_kind_of_answer_is_told_what_was_expected(
    name: str, impl: Callable[..., Any], message: str
) -> None:
    assert message in run_check(LAB.check(name), impl, PUBLIC_SEED).message


def test_four_bits_are_the_published_levels() -> None:
    found = reference.normal_float(4)
    torch.testing.assert_close(found, normal_float_codes(), rtol=0, atol=1e-7)
    torch.testing.assert_close(found, bnb.get_4bit_type("nf4", device="cpu"), rtol=0, atol=1e-6)


def test_bytes_and_scales_are_those_of_bitsandbytes(gen: torch.Generator) -> None:
    weight = torch.randn(24, 72, generator=gen)
    theirs, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    packed, absmax = reference.pack_weight(weight, NF4_CODES, 64)
    assert torch.equal(packed, theirs.flatten())
    assert torch.equal(absmax, state.absmax)
    mine = reference.unpack_weight(packed, absmax, NF4_CODES, 64, (24, 72), torch.float32)
    assert torch.equal(mine, bnb.dequantize_4bit(theirs, state))


def test_scales_are_those_of_nf4_with_double_quantization(gen: torch.Generator) -> None:
    weight = torch.randn(300, 80, generator=gen)
    held = quantize_nf4(weight).scales
    assert isinstance(held, DoubleQuantizedScales)
    _, absmax = reference.pack_weight(weight, NF4_CODES, 64)
    codes, second, offset, restored = reference.double_quantize(absmax, DYNAMIC_MAP)
    assert torch.equal(codes, held.codes)
    assert torch.equal(second, held.absmax)
    assert torch.equal(offset, held.offset)
    assert torch.equal(restored, held.dequantize())


def test_updates_are_those_of_adam8bit(gen: torch.Generator) -> None:
    weight = nn.Parameter(torch.randn(64, 80, generator=gen))
    mine, state = weight.detach().flatten().clone(), None
    optimizer = Adam8bit([weight], lr=0.1, weight_decay=0.0)
    for step in range(1, 5):
        weight.grad = torch.randn(64, 80, generator=gen) * torch.logspace(-6, 2, 80)
        change, state = reference.adam8bit_update(weight.grad.flatten(), state, step, MAPS, 0.1)
        optimizer.step()
        mine += change
    torch.testing.assert_close(mine, weight.detach().flatten(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rounds", [1, 3])
def test_starts_are_those_of_loftq(gen: torch.Generator, rounds: int) -> None:
    weight = torch.randn(48, 64, generator=gen)
    lora = LoraConfig(rank=6, alpha=15.0)
    config = loftq.LoftqConfig(qlora=qlora.QloraConfig(lora=lora), iterations=rounds)
    quantized, A, B = loftq.decompose(weight, config)
    mine = reference.loftq(weight, reference.nf4, 6, lora.scaling, rounds)
    for got, wanted in zip(mine, (quantized.dequantize(), A, B), strict=True):
        torch.testing.assert_close(got, wanted)


def test_the_plan_is_what_a_qlora_run_holds(tiny_model: MiniLLM, gen: torch.Generator) -> None:
    shapes = [tuple(linear.weight.shape) for linear in recipe.matrices(tiny_model).values()]
    names = tuple({name.rpartition(".")[2] for name in recipe.matrices(tiny_model)})
    config = qlora.QloraConfig(lora=LoraConfig(rank=4, alpha=8.0, target_modules=names))
    model = qlora.apply(tiny_model, config, generator=gen, dtype=torch.float32)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = Adam8bit(trained, min_numel=0)
    for factor in trained:
        factor.grad = torch.ones_like(factor)
    optimizer.step()
    others = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    base, adapters, gradients, moments, bits = reference.memory_plan(shapes, others, 4)
    packed = [b for name, b in model.named_buffers() if b.dtype is torch.uint8]
    assert base == sum(b.nbytes for b in packed) + 2 * others
    assert adapters == gradients == sum(p.nbytes for p in trained)
    assert moments == optimizer.nbytes
    weights = sum(math.prod(shape) for shape in shapes)
    assert bits == pytest.approx(8 * (base - 2 * others) / weights)


def test_the_plan_comes_to_the_papers_bits() -> None:
    *_, bits = reference.memory_plan([(4096, 4096)], 0, 1)
    assert bits - 4 == pytest.approx(8 / 64 + 32 / (64 * 256), abs=1e-5)
    assert bits - 4 == pytest.approx(0.127, abs=5e-4)


def layers(block_size: int) -> list[Callable[..., Any]]:
    """The layers of all faults, in their order."""
    cases = [{"fault": fault, "block_size": block_size} for fault in range(len(inputs.FAULTS))]
    return [case["layer"] for case in outside.layers({"cases": cases})["cases"]]


def question(gen: torch.Generator) -> list[Tensor]:
    shapes = (12, 16), (3, 16), (12, 3), (5, 16), (5, 12)
    return [torch.randn(shape, generator=gen) for shape in shapes]


def test_only_the_healthy_layer_is_labkits(gen: torch.Generator) -> None:
    weight, A, B, x, y_grad = question(gen)
    base = reference.unpack_weight(
        *reference.pack_weight(weight, NF4_CODES, 8), NF4_CODES, 8, (12, 16), torch.float32
    )
    whole = base + B @ A
    wanted = x @ whole.T, y_grad @ whole
    same = []
    for layer in layers(8):
        found = zip(layer(weight, A, B, x, y_grad), wanted, strict=True)
        same.append([torch.allclose(*pair, atol=1e-4) for pair in found])
    assert same == [[True, True], [False, False], [False, False], [False, False], [True, False]]


@pytest.mark.parametrize("block_size", range(8, 33, 2))
def test_every_fault_can_be_told(block_size: int) -> None:
    names = [reference.diagnose(layer, block_size) for layer in layers(block_size)]
    assert names == list(inputs.FAULTS)


@pytest.mark.parametrize(
    ("place", "tensor", "message"),
    [
        (0, torch.zeros(3), "two axes"),
        (0, torch.zeros(5, 16), "B: expected shape"),
        (3, torch.zeros(5, 15), "x: expected shape"),
        (1, torch.zeros(3, 16, dtype=torch.long), "finite floats"),
        (4, torch.full((5, 12), torch.nan), "finite floats"),
    ],
)
def test_a_layer_says_what_it_cannot_take(
    gen: torch.Generator, place: int, tensor: Tensor, message: str
) -> None:
    given = question(gen)
    given[place] = tensor
    with pytest.raises(ValueError, match=message):
        layers(8)[0](*given)


def test_a_weight_that_fills_no_whole_bytes_is_refused() -> None:
    shapes = (3, 5), (1, 5), (3, 1), (2, 5), (2, 3)
    with pytest.raises(ValueError, match="whole bytes"):
        layers(8)[0](*map(torch.zeros, shapes))


def test_the_recipes_layers_are_labkits(tiny_model: MiniLLM, gen: torch.Generator) -> None:
    settings, mine = recipe.Recipe(), copy.deepcopy(tiny_model)
    assert len(list(recipe.packed(mine, recipe.labkits(), settings))) == len(
        recipe.matrices(tiny_model)
    )
    qlora.pack(tiny_model, qlora.QloraConfig())
    assert len(recipe.adapt(mine, settings, seed=0)) == 4 * tiny_model.config.num_layers
    ids = torch.randint(tiny_model.config.vocab_size, (2, 9), generator=gen)
    torch.testing.assert_close(mine(ids), tiny_model(ids), rtol=1e-4, atol=1e-5)


def test_the_envelope_is_the_recipes_and_rounding_is_mostly_repaired(real_course: Course) -> None:
    beside = real_course.source(LAB.name).with_name("envelope.json")
    found = json.loads(beside.read_text(encoding="utf-8"))
    settings = recipe.Recipe()
    assert found["steps"] == list(range(0, settings.steps + 1, settings.every))
    coarse, dense = (np.array(found["runs"][name]) for name in ("nf4", "bfloat16"))
    for runs in (coarse, dense):
        assert runs.shape == (len(recipe.ENVELOPE_SEEDS), len(found["steps"]))
        assert np.ptp(runs[:, 0]) == 0  # B starts at zero
        assert (runs[:, -1] < runs[:, 0] - 0.5).all()
    assert coarse[0, 0] > dense[0, 0]
