"""Grouping and its products against the definition in float64, row by row."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.inference.adapters.grouped import LONG, PLANS, Grouping, add_part, group_rows
from labkit.inference.adapters.places import Place

I, WIDTHS, SLOTS, R = 11, (7, 5, 3), 6, 4  # noqa: E741
AT = frozenset({Place(0, "q_proj")})
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Info:
    slot: int
    rank: int
    places: frozenset[Place] = AT


ADAPTERS = {slot: Info(slot, 1 + slot % R) for slot in range(1, SLOTS + 1)}


def stacks(gen: torch.Generator) -> tuple[torch.Tensor, list[torch.Tensor]]:
    A = torch.randn(SLOTS, len(WIDTHS), R, I, generator=gen)
    Bs = [torch.randn(SLOTS, R, width, generator=gen) for width in WIDTHS]
    for slot, adapter in ADAPTERS.items():
        A[slot - 1, :, adapter.rank :] = 0
        for B in Bs:
            B[slot - 1, adapter.rank :] = 0
    return A, Bs


def defined(y, x, A, Bs, slots):
    y = y.double().clone()
    for row, slot in enumerate(slots.tolist()):
        if slot:
            parts = [
                x[row].double() @ A[slot - 1, n].double().T @ B[slot - 1].double()
                for n, B in enumerate(Bs)
            ]
            y[row] += torch.cat(parts)
    return y


def run(y, x, A, Bs, grouping: Grouping):
    y = y.clone()
    begins = [sum(WIDTHS[:n]) for n in range(len(WIDTHS))]
    columns = [slice(b, b + w) for b, w in zip(begins, WIDTHS, strict=True)]
    for part in grouping.parts:
        add_part(y, x, A, list(zip(range(len(WIDTHS)), columns, Bs, strict=True)), part)
    return y


@given(slots=st.lists(st.integers(0, SLOTS), min_size=1, max_size=40), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_every_plan_is_the_definition(slots, seed):
    gen = torch.Generator().manual_seed(seed)
    slots = torch.tensor(slots)
    if seed % 3 == 0:
        slots = slots.sort().values
    A, Bs = stacks(gen)
    x = torch.randn(len(slots), I, generator=gen)
    y = torch.randn(len(slots), sum(WIDTHS), generator=gen)
    expected = defined(y, x, A, Bs, slots)
    for plan in PLANS:
        got = run(y, x, A, Bs, group_rows(slots, ADAPTERS, device=CPU, plan=plan))
        # Two products of at most 11 terms of size 1 in float32.
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=2e-5)
        assert torch.equal(got[slots == 0], y[slots == 0])


@given(slots=st.lists(st.integers(0, SLOTS), min_size=1, max_size=300), plan=st.sampled_from(PLANS))
@settings(max_examples=60, deadline=None)
def test_each_row_with_an_adapter_is_in_one_part_once(slots, plan):
    tensor = torch.tensor(slots)
    grouping = group_rows(tensor, ADAPTERS, device=CPU, plan=plan)
    every = torch.arange(len(slots))
    covered = torch.cat([every[:0], *(every[part.rows] for part in grouping.parts)])
    assert sorted(covered.tolist()) == tensor.nonzero()[:, 0].tolist()
    for part in grouping.parts:
        adapters = 1 if isinstance(part.index, int) else len(part.index)
        grid = len(every[part.rows]) if part.gather is None else len(part.gather)
        if plan == "auto":
            assert grid < 2 * len(every[part.rows])
        if plan == "loop":
            assert adapters == 1


def test_long_prompts_do_not_pad_the_decoding_rows():
    slots = torch.tensor([1] * 3 + [2] * (LONG + 5) + [3, 4, 3, 4, 3] + [5] * LONG)
    parts = group_rows(slots, ADAPTERS, device=CPU).parts
    assert parts[0].index.tolist() == [0, 2, 3]
    assert [part.index for part in parts[1:]] == [1, 4]
    assert parts[0].rank == max(ADAPTERS[slot].rank for slot in (1, 3, 4))
    assert parts[1].rows == slice(3, LONG + 8)


def test_sorted_rows_of_equal_number_are_not_moved():
    [part] = group_rows(torch.tensor([0, 2, 2, 5, 5]), ADAPTERS, device=CPU).parts
    assert (part.rows, part.gather, part.kept) == (slice(1, 5), None, None)
    [part] = group_rows(torch.tensor([2, 5, 2, 5]), ADAPTERS, device=CPU).parts
    assert part.rows == slice(0, 4)
    assert part.gather.tolist() == part.kept.tolist() == [0, 2, 1, 3]


def test_unknown_plan():
    with pytest.raises(ValueError, match="plan='fast' must be one of auto, loop, padded"):
        group_rows(torch.tensor([1]), ADAPTERS, device=CPU, plan="fast")
