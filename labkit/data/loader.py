"""A data loader that can be gone through again: what a resumed training needs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from labkit.data.batch import Example, TokenBatch, batches
from labkit.data.packing import packed_batches
from labkit.runtime.seeding import generator


@dataclass(frozen=True, kw_only=True, slots=True)
class DataLoader:
    """Shuffled batches of examples, the same ones each time it is iterated over.

    `batches` and `packed_batches` are the passes themselves and use up their generator; the loader
    starts each pass with a fresh one, so that a run that resumes is fed what the first was.

    Attributes:
        examples: what to draw from.
        batch_size: examples a batch, or packed rows a batch where `length` is given.
        pad_id: token that fills short rows.
        length: tokens a packed row; None pads each batch to its longest example instead.
        epochs: passes over the examples, each in an order of its own; None never ends.
        seed: decides the orders.
    """

    examples: Sequence[Example]
    batch_size: int
    pad_id: int
    length: int | None = None
    epochs: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.examples or self.batch_size < 1:
            raise ValueError(
                f"{len(self.examples)} examples in batches of batch_size={self.batch_size}: "
                "both must be at least 1"
            )
        longest = max(len(example.ids) for example in self.examples)
        if self.length is not None and longest > self.length:
            raise ValueError(
                f"an example has {longest} tokens, a packed row length={self.length}: truncate "
                "the example or lengthen the rows"
            )

    def __iter__(self) -> Iterator[TokenBatch]:
        source = generator(self.seed)
        if self.length is None:
            return batches(
                self.examples,
                batch_size=self.batch_size,
                pad_id=self.pad_id,
                generator=source,
                epochs=self.epochs,
            )
        return packed_batches(
            self.examples,
            length=self.length,
            pad_id=self.pad_id,
            batch_size=self.batch_size,
            generator=source,
            epochs=self.epochs,
        )
