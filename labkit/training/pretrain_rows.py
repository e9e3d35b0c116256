"""Documents of the pretraining mix as packed rows, and the order in which they are trained on."""

from collections.abc import Iterator, Sequence

import numpy as np

from labkit.data import packing
from labkit.data.batch import TokenBatch, windows
from labkit.model.tokenizer import Tokenizer
from labkit.training.pretrain_data import END_OF_TEXT, Document


def packed(documents: Sequence[Document], tokenizer: Tokenizer, length: int) -> list[TokenBatch]:
    """Rows of `length` tokens in which no document sees another; every token is learnt.

    Documents longer than a row are cut into pieces.
    """
    pieces = [
        piece
        for document in documents
        for piece in windows(tokenizer.encode(_text_of(document, tokenizer)), length=length)
    ]
    return packing.pack(pieces, length=length, pad_id=tokenizer.pad_id)


def mixed_batches(
    rows: Sequence[Sequence[TokenBatch]],
    shares: Sequence[float],
    *,
    batch_size: int,
    rng: np.random.Generator,
) -> Iterator[TokenBatch]:
    """Endless batches whose rows are drawn from the sources by their shares.

    Args:
        rows: The packed rows of each source.
        shares: Weight of each source.
        batch_size: Rows in a batch.
        rng: Fixes the whole order. Each source is gone through in a new order every time round.

    Yields:
        Batches of `batch_size` rows.
    """
    weights = np.asarray(shares, dtype=np.float64)
    weights /= weights.sum()
    orders = [_shuffled_forever(source, rng) for source in rows]
    while True:
        chosen = rng.choice(len(rows), size=batch_size, p=weights)
        yield packing.stack([next(orders[source]) for source in chosen])


def _text_of(document: Document, tokenizer: Tokenizer) -> str:
    """A plain text with the end-of-text token, or a chat as its template writes it."""
    if isinstance(document, str):
        return document + END_OF_TEXT
    return tokenizer.apply_chat(document, add_generation_prompt=False)


def _shuffled_forever(rows: Sequence[TokenBatch], rng: np.random.Generator) -> Iterator[TokenBatch]:
    while True:
        for index in rng.permutation(len(rows)):
            yield rows[index]
