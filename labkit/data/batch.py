"""Examples and padded batches: token ids with the labels a causal language model learns from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

IGNORE_INDEX = -100


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence; `labels[i]` is `ids[i]`, or IGNORE_INDEX where it is not to be learnt.

    Labels stand at their own token, as in Hugging Face models: the loss shifts them, comparing
    the logits at i - 1 with `labels[i]`.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.labels):
            raise ValueError(f"{len(self.ids)} ids need as many labels, got {len(self.labels)}")
        if not self.ids:
            raise ValueError("an example needs at least one token")

    def truncated(self, length: int) -> "Example":
        """The first `length` tokens, or the example itself where it is shorter."""
        return Example(self.ids[:length], self.labels[:length])


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBatch:
    """Tensors of one step, int64.

    Attributes:
        ids: token ids.
        labels: aligned with ids, IGNORE_INDEX where nothing is learnt.
        document_ids: for packed rows, which document a token belongs to.
        positions: for packed rows, the place within the document.
    """

    ids: Int[Tensor, "B T"]
    labels: Int[Tensor, "B T"]
    document_ids: Int[Tensor, "B T"] | None = None
    positions: Int[Tensor, "B T"] | None = None

    def to(self, device: torch.device | str) -> "TokenBatch":
        """The same batch on another device."""
        return TokenBatch(
            ids=self.ids.to(device),
            labels=self.labels.to(device),
            document_ids=None if self.document_ids is None else self.document_ids.to(device),
            positions=None if self.positions is None else self.positions.to(device),
        )


def windows(ids: Sequence[int], *, length: int) -> list[Example]:
    """Cut a long text into examples of `length` tokens that are all learnt; the last is shorter."""
    if length < 2:
        raise ValueError(f"length={length} must be at least 2, or nothing is predicted")
    pieces = [tuple(ids[start : start + length]) for start in range(0, len(ids), length)]
    return [Example(piece, piece) for piece in pieces]


def collate(examples: Sequence[Example], pad_id: int) -> TokenBatch:
    """Stack examples, shorter ones padded on the right with `pad_id` and labels IGNORE_INDEX.

    Under causal attention no real token sees the padding, so no mask is needed.

    Raises:
        ValueError: there are no examples.
    """
    if not examples:
        raise ValueError("a batch needs at least one example")
    T = max(len(example.ids) for example in examples)
    ids = [[*example.ids, *[pad_id] * (T - len(example.ids))] for example in examples]
    labels = [[*example.labels, *[IGNORE_INDEX] * (T - len(example.ids))] for example in examples]
    return TokenBatch(ids=torch.tensor(ids), labels=torch.tensor(labels))


def shuffled_groups(
    count: int, size: int, generator: torch.Generator, epochs: int | None
) -> Iterator[list[int]]:
    """Indices in groups of `size`, shuffled anew in every epoch; endless where `epochs` is None.

    The last group of an epoch may be smaller: every index comes once an epoch.

    Raises:
        ValueError: nothing to draw from, or a group size below 1.
    """
    if count < 1 or size < 1:
        raise ValueError(f"{count} examples in batches of {size}: both must be at least 1")
    epoch = 0
    while epochs is None or epoch < epochs:
        order: list[int] = torch.randperm(count, generator=generator).tolist()
        for start in range(0, count, size):
            yield order[start : start + size]
        epoch += 1


def batches(
    examples: Sequence[Example],
    *,
    batch_size: int,
    pad_id: int,
    generator: torch.Generator,
    epochs: int | None = None,
) -> Iterator[TokenBatch]:
    """Padded batches of all examples in random order, epoch after epoch.

    Args:
        examples: what to draw from.
        batch_size: examples a batch; the last of an epoch may hold fewer.
        pad_id: token that fills short rows.
        generator: decides the order; a CPU generator.
        epochs: passes over the examples; None never ends.
    """
    for group in shuffled_groups(len(examples), batch_size, generator, epochs):
        yield collate([examples[i] for i in group], pad_id)
