"""Packed rows give the loss of separate runs, and first-fit wastes no row."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from labkit.data.batch import IGNORE_INDEX, Example, TokenBatch
from labkit.data.packing import first_fit, pack, packed_batches
from labkit.model.minillm import MiniLLM


def example(length: int, generator: torch.Generator) -> Example:
    ids = torch.randint(97, (length,), generator=generator).tolist()
    prompt = length // 3
    return Example(tuple(ids), (*[IGNORE_INDEX] * prompt, *ids[prompt:]))


def loss_sum(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum")


@pytest.fixture
def examples(gen: torch.Generator) -> list[Example]:
    return [example(length, gen) for length in (11, 29, 7, 19, 3, 13, 5, 2, 23)]


def test_loss_over_packed_rows_equals_separate_runs(
    tiny_model: MiniLLM, examples: list[Example]
) -> None:
    model = tiny_model.double()
    separate = torch.zeros((), dtype=torch.float64)
    for each in examples:
        logits = model(torch.tensor([each.ids]))
        separate += loss_sum(logits, torch.tensor([each.labels]))
    packed = torch.zeros((), dtype=torch.float64)
    crossed = torch.zeros((), dtype=torch.float64)
    for row in pack(examples, length=37, pad_id=1):
        logits = model(row.ids, document_ids=row.document_ids, positions=row.positions)
        packed += loss_sum(logits, row.labels)
        crossed += loss_sum(model(row.ids), row.labels)
    torch.testing.assert_close(packed, separate, rtol=1e-10, atol=0)
    assert not torch.isclose(crossed, separate, rtol=1e-5, atol=0)


def test_a_row_by_hand() -> None:
    (row,) = pack([Example((4, 5, 6), (4, 5, 6)), Example((7, 8), (7, 8))], length=7, pad_id=9)
    assert row.ids.tolist() == [[4, 5, 6, 7, 8, 9, 9]]
    assert row.labels.tolist() == [[-100, 5, 6, -100, 8, -100, -100]]
    assert row.document_ids is not None
    assert row.document_ids.tolist() == [[0, 0, 0, 1, 1, 2, 2]]
    assert row.positions is not None
    assert row.positions.tolist() == [[0, 1, 2, 0, 1, 0, 1]]


@given(st.lists(st.integers(1, 17), max_size=40))
def test_first_fit_places_everything_once_where_it_first_fits(sizes: list[int]) -> None:
    rows = first_fit([Example((0,) * n, (0,) * n) for n in sizes], 17)
    assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
    for r, row in enumerate(rows):
        assert sum(sizes[i] for i in row) <= 17
        for i in row:  # no earlier row had room when i came
            for earlier in rows[:r]:
                assert sum(sizes[j] for j in earlier if j < i) + sizes[i] > 17


def test_batches_hold_every_example_once_an_epoch(examples: list[Example]) -> None:
    def documents(batch: TokenBatch) -> list[tuple[int, ...]]:
        assert batch.document_ids is not None
        found = []
        for ids, owners in zip(batch.ids, batch.document_ids, strict=True):
            found += [tuple(ids[owners == d].tolist()) for d in range(int(owners.max()) + 1)]
        return [ids for ids in found if set(ids) != {97}]

    generator = torch.Generator().manual_seed(5)
    stream = packed_batches(
        examples, length=31, pad_id=97, batch_size=2, generator=generator, epochs=1
    )
    batches = list(stream)
    assert all(batch.ids.shape[1] == 31 for batch in batches)
    assert all(batch.ids.shape[0] == 2 for batch in batches[:-1])
    packed = sorted(ids for batch in batches for ids in documents(batch))
    assert packed == sorted(each.ids for each in examples)


def test_bad_values_are_refused(examples: list[Example]) -> None:
    with pytest.raises(ValueError, match="example 1 has 29 tokens, a row 28"):
        pack(examples, length=28, pad_id=0)
    with pytest.raises(ValueError, match="batch_size=0"):
        next(
            packed_batches(examples, length=31, pad_id=0, batch_size=0, generator=torch.Generator())
        )
