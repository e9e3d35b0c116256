"""Lab 15: other right ways pass, planted faults are what their names say, the envelope fits."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from grader.checks.core import HIDDEN_SEEDS, PUBLIC_SEED, load_lab, run_check, verdicts
from grader.course import Course
from grader.labs.lab15_quantization import outside, recipe, reference
from labkit.quant import affine

LAB = load_lab("lab15_quantization")
SEEDS = (PUBLIC_SEED, *HIDDEN_SEEDS, *range(12))


def packed_by_numpy(codes: Tensor, bits: int) -> Tensor:
    each = np.unpackbits(codes.numpy()[:, None], axis=1, bitorder="little")[:, :bits]
    return torch.from_numpy(np.packbits(each.reshape(-1), bitorder="little"))


def encoded_level_by_level(weight: Tensor, levels: Tensor, size: int) -> tuple[Tensor, Tensor]:
    pieces = weight.reshape(-1).split(size)
    largest = torch.stack([piece.abs().max() for piece in pieces])
    unit = torch.cat([p / (s if s > 0 else 1.0) for p, s in zip(pieces, largest, strict=True)])
    best, codes = torch.full_like(unit, torch.inf), torch.zeros_like(unit, dtype=torch.uint8)
    for code, level in enumerate(levels):
        off = (unit - level).abs()
        codes[off < best] = code
        best = torch.minimum(best, off)
    return codes, largest


def repaired_by_inverse(weight: Tensor, hessian: Tensor, column: int, rounded: Tensor) -> Tensor:
    row = torch.linalg.inv(hessian[column:, column:])[0]
    moved = weight[:, column:] + torch.outer(rounded - weight[:, column], row / row[0])
    return torch.cat((weight[:, :column], moved), dim=1)


def masked_keeping_the_first(weight: Tensor, x: Tensor, n: int, m: int) -> Tensor:
    """Of equal scores the earlier stays, where labkit keeps the later; squares order alike."""
    scores = (weight.square() * x.square().mean(0)).reshape(-1, m)
    ranks = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (ranks < n).reshape(weight.shape)


@pytest.mark.parametrize(
    ("name", "impl"),
    [
        ("pack_codes", packed_by_numpy),
        ("encode_codebook", encoded_level_by_level),
        ("repair", repaired_by_inverse),
        ("wanda_mask", masked_keeping_the_first),
    ],
)
def test_other_right_ways_pass(name: str, impl: Callable[..., Any]) -> None:
    assert verdicts(LAB.check(name), impl, SEEDS).message == ""


def test_a_bare_tensor_for_three_is_answered_with_their_names() -> None:
    check = LAB.check("quantize_groups")
    verdict = run_check(check, lambda weight, bits, size: weight, PUBLIC_SEED)
    assert "codes, scale, zero_point" in verdict.message


def quantizers(group_size: int) -> list[Callable[[Tensor], Tensor]]:
    """The quantizers of all faults, in their order."""
    cases = [{"fault": fault, "group_size": group_size} for fault in range(5)]
    return [case["quantize"] for case in outside.quantizers({"cases": cases})["cases"]]


def test_only_the_healthy_quantizer_is_labkits(gen: torch.Generator) -> None:
    weight = torch.randn(14, 21, generator=gen) - 0.8
    config = affine.AffineConfig(bits=4, granularity="group", group_size=7)
    expected = affine.fake_quantize(weight, config)
    same = [torch.allclose(quantize(weight), expected) for quantize in quantizers(7)]
    assert same == [True, False, False, False, False]


@pytest.mark.parametrize("group_size", range(6, 12))
def test_every_fault_can_be_told(group_size: int) -> None:
    names = [reference.diagnose(quantize, group_size) for quantize in quantizers(group_size)]
    assert names == ["healthy", "wrong_axis", "zero_clipped", "codes_wrapped", "groups_mixed"]


def test_the_envelope_is_the_recipes(real_course: Course) -> None:
    beside = real_course.source(LAB.name).with_name("envelope.json")
    envelope = json.loads(beside.read_text(encoding="utf-8"))
    runs = np.array(envelope["runs"])
    assert tuple(envelope["bits"]) == recipe.Recipe().bits
    assert runs.shape == (len(recipe.ENVELOPE_SEEDS), len(recipe.Recipe().bits))
    assert (np.diff(runs, axis=1) < 0).all()
