"""Steps of an executor over sequences whose pages the test chooses."""

import torch
from torch import Tensor

from labkit.inference.executors import Executor
from labkit.inference.step_batch import StepBatch


def run(
    executor: Executor,
    tokens: list[list[int]],
    *,
    past: list[int] | None = None,
    tables: list[list[int]],
    every: bool = False,
) -> Tensor:
    """Logits after each sequence's new tokens, or after every one of them.

    Args:
        executor: runs the step.
        tokens: new ones of each sequence.
        past: tokens each has in its pages already; default: none.
        tables: pages of each.
        every: whether logits after each token are wanted.
    """
    size = executor.cache.page_size
    past = [0] * len(tokens) if past is None else past
    counts = [len(ids) for ids in tokens]
    starts = [sum(counts[:i]) for i in range(len(counts) + 1)]
    width = max(len(table) for table in tables)
    padded = torch.tensor([table + [0] * (width - len(table)) for table in tables])
    rows = torch.repeat_interleave(torch.arange(len(tokens)), torch.tensor(counts))
    spans = [torch.arange(p, p + n) for p, n in zip(past, counts, strict=True)]
    positions = torch.cat(spans)
    batch = StepBatch(
        ids=torch.tensor([token for ids in tokens for token in ids]),
        positions=positions,
        places=padded[rows, positions // size] * size + positions % size,
        rows=rows,
        tables=padded.int(),
        starts=starts,
        last=torch.arange(starts[-1]) if every else torch.tensor(starts[1:]) - 1,
    )
    return executor.run(batch)
