"""Packing: several examples in one row of fixed length, none of which sees another.

Paper: arXiv:2107.02027v2, section 3 (packing without cross-contamination). Differs: plain
first-fit in the order given, which keeps the data's order up to one row.
"""

from collections.abc import Iterator, Sequence

import torch

from labkit.data.batch import IGNORE_INDEX, Example, TokenBatch, shuffled_groups


def pack(examples: Sequence[Example], *, length: int, pad_id: int) -> list[TokenBatch]:
    """Put each example into the first row with room for it: rows of shape (1, length).

    `document_ids` count the examples of a row from 0, the padding being one more document;
    `positions` restart at 0 with each. The label of an example's first token is ignored: nothing
    in its own document comes before it. Time grows as examples x rows.

    Args:
        examples: each at most `length` tokens.
        length: tokens a row.
        pad_id: token that fills the rest.

    Raises:
        ValueError: an example is longer than a row.
    """
    return [_row([examples[i] for i in row], length, pad_id) for row in first_fit(examples, length)]


def first_fit(examples: Sequence[Example], length: int) -> list[list[int]]:
    """Which examples, by index, share a row."""
    rows: list[list[int]] = []
    room: list[int] = []
    for i, example in enumerate(examples):
        size = len(example.ids)
        if size > length:
            raise ValueError(
                f"example {i} has {size} tokens, a row {length}: truncate it or lengthen the rows"
            )
        row = next((r for r, left in enumerate(room) if left >= size), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(length)
        rows[row].append(i)
        room[row] -= size
    return rows


def packed_batches(
    examples: Sequence[Example],
    *,
    length: int,
    pad_id: int,
    batch_size: int,
    generator: torch.Generator,
    epochs: int | None = None,
) -> Iterator[TokenBatch]:
    """Batches of packed rows: every epoch shuffles the examples and packs them anew.

    Args:
        examples: each at most `length` tokens.
        length: tokens a row.
        pad_id: token that fills rows.
        batch_size: rows a batch; the last of an epoch may hold fewer.
        generator: decides the order; a CPU generator.
        epochs: passes over the examples; None never ends.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    for order in shuffled_groups(len(examples), len(examples), generator, epochs):
        rows = pack([examples[i] for i in order], length=length, pad_id=pad_id)
        for start in range(0, len(rows), batch_size):
            yield stack(rows[start : start + batch_size])


def _row(examples: Sequence[Example], length: int, pad_id: int) -> TokenBatch:
    ids: list[int] = []
    labels: list[int] = []
    documents: list[int] = []
    positions: list[int] = []
    for document, example in enumerate(examples):
        size = len(example.ids)
        ids += example.ids
        labels += [IGNORE_INDEX, *example.labels[1:]]
        documents += [document] * size
        positions += range(size)
    rest = length - len(ids)
    return TokenBatch(
        ids=torch.tensor([ids + [pad_id] * rest]),
        labels=torch.tensor([labels + [IGNORE_INDEX] * rest]),
        document_ids=torch.tensor([documents + [len(examples)] * rest]),
        positions=torch.tensor([positions + list(range(rest))]),
    )


def stack(rows: Sequence[TokenBatch]) -> TokenBatch:
    """Rows of equal length as one batch."""
    return TokenBatch(
        ids=torch.cat([row.ids for row in rows]),
        labels=torch.cat([row.labels for row in rows]),
        document_ids=torch.cat([row.document_ids for row in rows if row.document_ids is not None]),
        positions=torch.cat([row.positions for row in rows if row.positions is not None]),
    )
