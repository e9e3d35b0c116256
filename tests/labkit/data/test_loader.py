"""A loader gives the same batches again, and those of the passes it stands for."""

import itertools

import pytest
import torch

from labkit.data.batch import Example, TokenBatch, batches
from labkit.data.loader import DataLoader
from labkit.data.packing import packed_batches


@pytest.fixture
def examples() -> list[Example]:
    rows = [tuple(range(start, start + n)) for start, n in ((1, 4), (20, 7), (40, 3), (60, 5))]
    return [Example(row, row) for row in rows]


def _ids(found: list[TokenBatch]) -> list[list[list[int]]]:
    return [batch.ids.tolist() for batch in found]


@pytest.mark.parametrize("length", [None, 9])
def test_it_gives_the_same_batches_again(examples: list[Example], length: int | None) -> None:
    loader = DataLoader(examples=examples, batch_size=3, pad_id=0, length=length, epochs=3, seed=5)
    first = _ids(list(loader))
    assert first == _ids(list(loader))
    assert first != _ids(list(DataLoader(examples=examples, batch_size=3, pad_id=0, epochs=3)))
    source = torch.Generator().manual_seed(5)
    if length is None:
        expected = batches(examples, batch_size=3, pad_id=0, generator=source, epochs=3)
    else:
        expected = packed_batches(
            examples, length=9, pad_id=0, batch_size=3, generator=source, epochs=3
        )
    assert first == _ids(list(expected))


def test_two_passes_at_once_do_not_disturb_each_other(examples: list[Example]) -> None:
    loader = DataLoader(examples=examples, batch_size=1, pad_id=0)
    alone = _ids(list(itertools.islice(loader, 9)))
    pairs = list(itertools.islice(zip(loader, loader, strict=True), 9))
    assert _ids([one for one, _ in pairs]) == _ids([other for _, other in pairs]) == alone


def test_what_cannot_be_batched_is_refused_at_once(examples: list[Example]) -> None:
    with pytest.raises(ValueError, match="0 examples in batches of batch_size=2"):
        DataLoader(examples=[], batch_size=2, pad_id=0)
    with pytest.raises(ValueError, match="4 examples in batches of batch_size=0"):
        DataLoader(examples=examples, batch_size=0, pad_id=0)
    with pytest.raises(ValueError, match="an example has 7 tokens, a packed row length=6"):
        DataLoader(examples=examples, batch_size=2, pad_id=0, length=6)
