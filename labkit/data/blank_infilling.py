"""GLM's training examples: spans are cut out of a text and written after it, one token at a time.

Paper: arXiv 2103.10360, sections 2.1 and 2.2. Differs: positions count from 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from labkit.data.batch import IGNORE_INDEX

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Infilling:
    """A text with blanks (part A), then what was in them (part B).

    Attributes:
        ids: Part A with one mask token a span; then for each span the start token and its tokens.
        targets: What is predicted *at* each place, not shifted further: IGNORE_INDEX in part A;
            in part B the next token of the span, at its last place the end token.
        positions: Place in part A; in part B that of the span's mask token.
        block_positions: 0 in part A; in part B 1, 2, ... within the span.
        prefix_length: Tokens of part A.
    """

    ids: tuple[int, ...]
    targets: tuple[int, ...]
    positions: tuple[int, ...]
    block_positions: tuple[int, ...]
    prefix_length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class InfillingBatch:
    """Tensors of several examples of one length."""

    ids: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    positions: Int[Tensor, "B T"]
    block_positions: Int[Tensor, "B T"]
    prefix_lengths: Int[Tensor, "B"]


def infill(
    tokens: Sequence[int],
    spans: Sequence[Span],
    *,
    mask_id: int,
    start_id: int,
    end_id: int,
) -> Infilling:
    """Cut spans out of a text and append them in the order given.

    ChatGLM's dialogue is the case of one span at the end: its mask token closes the prompt.

    Args:
        tokens: The text.
        spans: Pairs (start, end) of places, end excluded; any order, not overlapping. GLM draws
            the order at random, so that a span may depend on any other.
        mask_id, start_id, end_id: Special tokens.

    Raises:
        ValueError: A span is empty or outside, two overlap or none is given.
    """
    in_order = sorted(spans)
    edges = [0, *(edge for span in in_order for edge in span), len(tokens)]
    if not spans or edges != sorted(edges) or any(start == end for start, end in spans):
        raise ValueError(
            f"spans {list(spans)} must not be empty, overlap or leave [0, {len(tokens)})"
        )
    part_a: list[int] = []
    blank_at: dict[Span, int] = {}
    done = 0
    for start, end in in_order:
        part_a += tokens[done:start]
        blank_at[start, end] = len(part_a)
        part_a.append(mask_id)
        done = end
    part_a += tokens[done:]
    A = len(part_a)
    ids, targets = list(part_a), [IGNORE_INDEX] * A
    positions, block_positions = list(range(A)), [0] * A
    for span in spans:
        inside = list(tokens[slice(*span)])
        ids += [start_id, *inside]
        targets += [*inside, end_id]
        positions += [blank_at[span]] * (len(inside) + 1)
        block_positions += range(1, len(inside) + 2)
    return Infilling(
        ids=tuple(ids),
        targets=tuple(targets),
        positions=tuple(positions),
        block_positions=tuple(block_positions),
        prefix_length=A,
    )


def stack(examples: Sequence[Infilling]) -> InfillingBatch:
    """Examples of equal length as one batch.

    Raises:
        ValueError: There are none, or their lengths differ.
    """
    lengths = {len(example.ids) for example in examples}
    if len(lengths) != 1:
        raise ValueError(f"examples of one length are needed, got lengths {sorted(lengths)}")
    return InfillingBatch(
        ids=torch.tensor([example.ids for example in examples]),
        targets=torch.tensor([example.targets for example in examples]),
        positions=torch.tensor([example.positions for example in examples]),
        block_positions=torch.tensor([example.block_positions for example in examples]),
        prefix_lengths=torch.tensor([example.prefix_length for example in examples]),
    )
