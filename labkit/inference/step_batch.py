"""What one step runs: the tokens of all its sequences, flattened."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from labkit.inference.scheduler import Chunk


@dataclass(frozen=True, slots=True, eq=False)
class StepBatch:
    """The tokens of one step, those of all sequences one after the other, without padding.

    Attributes:
        ids: the N tokens.
        positions: of each in its sequence.
        places: page * page_size + row of each token's keys and values.
        rows: the sequence, as a row of `tables`, that each token belongs to.
        tables: each sequence's pages, filled up with page 0.
        starts: index of each sequence's first token here, and N at the end.
        last: indices of the tokens whose logits are wanted.
        slots: the adapter of each token, 0 for none; None where there are no adapters.
    """

    ids: Int[Tensor, " N"]
    positions: Int[Tensor, " N"]
    places: Int[Tensor, " N"]
    rows: Int[Tensor, " N"]
    tables: Int[Tensor, "B W"]
    starts: list[int]
    last: Int[Tensor, " Q"]
    slots: Int[Tensor, " N"] | None = None


def flatten(
    chunks: Sequence[Chunk],
    tables: Sequence[list[int]],
    *,
    page_size: int,
    device: torch.device,
    adapters: bool = False,
) -> StepBatch:
    """The batch of a plan's chunks.

    Args:
        chunks: of one sequence each.
        tables: their pages, in which the chunks' tokens have room.
        page_size: tokens a page holds.
        device: of the model.
        adapters: whether tokens name adapters.
    """
    ids: list[int] = []
    positions: list[int] = []
    places: list[int] = []
    starts = [0]
    for chunk, table in zip(chunks, tables, strict=True):
        span = range(chunk.start, chunk.start + chunk.count)
        ids += chunk.sequence.tokens[span.start : span.stop]
        positions += span
        places += [table[p // page_size] * page_size + p % page_size for p in span]
        starts.append(len(ids))
    width = max(map(len, tables))
    counts = torch.tensor([chunk.count for chunk in chunks])
    slots = torch.tensor([chunk.sequence.slot for chunk in chunks])
    last = [end - 1 for end, chunk in zip(starts[1:], chunks, strict=True) if chunk.complete]
    tensor = partial(torch.tensor, device=device)
    return StepBatch(
        ids=tensor(ids),
        positions=tensor(positions),
        places=tensor(places),
        rows=torch.arange(len(chunks)).repeat_interleave(counts).to(device),
        tables=tensor([t + [0] * (width - len(t)) for t in tables], dtype=torch.int32),
        starts=starts,
        last=tensor(last, dtype=torch.int64),
        slots=slots.repeat_interleave(counts) if adapters else None,
    )
