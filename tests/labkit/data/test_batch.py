"""Batches: padding, order, and what a full pass over the examples holds."""

from collections import Counter
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labkit.data.batch import IGNORE_INDEX, Example, TokenBatch, batches, collate, windows

EXAMPLES = [Example(tuple(range(10 * n, 11 * n)), tuple(range(10 * n, 11 * n))) for n in (3, 1, 5)]


def test_collate_pads_on_the_right_and_ignores_the_padding() -> None:
    batch = collate([Example((7, 8, 9), (IGNORE_INDEX, 8, 9)), Example((6,), (6,))], pad_id=2)
    assert batch.ids.tolist() == [[7, 8, 9], [6, 2, 2]]
    assert batch.labels.tolist() == [[-100, 8, 9], [6, -100, -100]]
    assert batch.ids.dtype == batch.labels.dtype == torch.int64
    assert batch.document_ids is batch.positions is None


def test_every_epoch_holds_every_example_once() -> None:
    generator = torch.Generator().manual_seed(3)
    seen = batches(EXAMPLES, batch_size=2, pad_id=0, generator=generator, epochs=4)
    firsts = [row[0] for batch in seen for row in batch.ids.tolist()]
    assert Counter(firsts) == {30: 4, 10: 4, 50: 4}
    assert len({tuple(firsts[i : i + 3]) for i in range(0, 12, 3)}) > 1


def test_the_generator_decides_the_order_and_none_never_ends() -> None:
    def order(seed: int) -> list[list[list[int]]]:
        generator = torch.Generator().manual_seed(seed)
        endless = batches(EXAMPLES, batch_size=1, pad_id=0, generator=generator)
        return [batch.ids.tolist() for batch in islice(endless, 20)]

    assert order(1) == order(1) != order(2)


@given(st.lists(st.integers(0, 96), max_size=40), st.integers(2, 9))
def test_windows_cut_without_loss(ids: list[int], length: int) -> None:
    examples = windows(ids, length=length)
    assert [token for example in examples for token in example.ids] == ids
    assert all(len(example.ids) == length for example in examples[:-1])
    assert all(example.labels == example.ids for example in examples)


def test_a_batch_moves_with_all_its_tensors() -> None:
    tensor = torch.zeros(3, 5, dtype=torch.int64)
    moved = TokenBatch(ids=tensor, labels=tensor, document_ids=tensor, positions=tensor).to("meta")
    for part in (moved.ids, moved.labels, moved.document_ids, moved.positions):
        assert part is not None
        assert part.device.type == "meta"
    assert collate(EXAMPLES, 0).to("cpu").positions is None


def test_truncation() -> None:
    assert EXAMPLES[2].truncated(2) == Example((50, 51), (50, 51))
    assert EXAMPLES[1].truncated(2) == EXAMPLES[1]


def test_bad_values_are_refused() -> None:
    generator = torch.Generator()
    with pytest.raises(ValueError, match="2 ids need as many labels, got 1"):
        Example((1, 2), (1,))
    with pytest.raises(ValueError, match="at least one token"):
        Example((), ())
    with pytest.raises(ValueError, match="at least one example"):
        collate([], 0)
    with pytest.raises(ValueError, match="length=1"):
        windows([1, 2], length=1)
    with pytest.raises(ValueError, match="0 examples"):
        next(batches([], batch_size=3, pad_id=0, generator=generator))
    with pytest.raises(ValueError, match="batches of 0"):
        next(batches(EXAMPLES, batch_size=0, pad_id=0, generator=generator))
