"""Logits of given texts through an executor, in the very steps that are timed."""

from dataclasses import replace

import numpy as np
import torch

from labkit.inference.executors import Executor
from labkit.inference.scheduler import Chunk, Sequence
from labkit.inference.step_batch import flatten


def save_logits(executor: Executor, texts: list[list[int]], path: str, batch: int) -> None:
    """Save logits (B T, V) of texts of one length, text by text.

    Args:
        executor: Its pages are overwritten.
        texts: B of T tokens.
        path: Of an .npy file.
        batch: Texts decoded together, a token of each a step; 0: each text in one step, as prompts
            are.
    """
    T = len(texts[0])
    groups = [texts[i : i + max(batch, 1)] for i in range(0, len(texts), max(batch, 1))]
    spans = [range(t, t + 1) for t in range(T)] if batch else [range(T)]
    rows = [torch.cat([_logits(executor, g, span) for span in spans], dim=1) for g in groups]
    np.save(path, torch.cat(rows).flatten(0, 1).float().numpy())


def _logits(executor: Executor, texts: list[list[int]], span: range) -> torch.Tensor:
    """Logits (B, span, V) of all texts, whose earlier tokens lie in the first pages."""
    page_size = executor.cache.page_size
    width = -(-len(texts[0]) // page_size)
    chunks = [Chunk(Sequence(i, text), span.start, len(span)) for i, text in enumerate(texts)]
    tables = [list(range(i * width, (i + 1) * width)) for i in range(len(texts))]
    batch = flatten(chunks, tables, page_size=page_size, device=executor.cache.keys.device)
    everywhere = replace(batch, last=torch.arange(len(batch.ids)))
    return executor.run(everywhere).view(len(texts), len(span), -1)
