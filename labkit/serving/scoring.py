"""A prompt's own log-probabilities, through the engine's executor: what `echo` answers with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.inference.chooser import Choice
from labkit.inference.engine import Engine
from labkit.inference.logprobs import token_logprobs
from labkit.inference.scheduler import Chunk
from labkit.inference.scheduler import Sequence as Scheduled
from labkit.inference.step_batch import flatten

KEY = -1  # requests are numbered from 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """A prompt read.

    Attributes:
        choices: Its tokens with log p of each given those before; the first has none.
        last: Logits of the token after it.
    """

    choices: list[Choice]
    last: Float[Tensor, " V"]


def score(
    engine: Engine, ids: Sequence[int], *, adapter: str | None = None, num_top: int = 0
) -> Scored:
    """log p(ids[t] | ids[:t]) for every t > 0, with the engine's own weights, pages and adapters.

    The tokens run in chunks of the engine's token budget, and the pages are free again afterwards.
    Nothing is taken from the prefix cache, for which no logits exist. Call it between steps.

    Args:
        engine: Whose executor reads the prompt.
        ids: Of the prompt, one at least.
        adapter: Name of a mounted adapter.
        num_top: How many likeliest tokens to list beside each.

    Raises:
        OutOfPagesError: Too few pages are free now.
        UnknownAdapterError: Nothing is mounted under the name.
        ValueError: All pages together are too few.
    """
    wanted, pages = engine.blocks.pages_for(len(ids)), engine.blocks.num_pages
    if wanted > pages:
        raise ValueError(f"a prompt of {len(ids)} tokens takes {wanted} pages, and {pages} exist")
    bank = engine.adapters
    slot = 0 if adapter is None or bank is None else bank.acquire(adapter)
    blocks = engine.blocks
    blocks.begin(KEY, [])  # of no tokens: found in no cache, and put into none
    try:
        blocks.reserve(KEY, len(ids))
        return _read(engine, Scheduled(KEY, list(ids), slot=slot), num_top)
    finally:
        blocks.end(KEY)
        if bank is not None:
            bank.release(slot)


def _read(engine: Engine, sequence: Scheduled, num_top: int) -> Scored:
    ids, step = sequence.tokens, engine.config.token_budget
    choices = [Choice(ids[0])]
    for start in range(0, len(ids), step):
        logits = _chunk(engine, sequence, start, min(step, len(ids) - start))
        following = torch.tensor(ids[start + 1 : start + 1 + len(logits)], dtype=torch.int64)
        pairs = token_logprobs(logits[: len(following)], following, num_top)
        choices += [Choice(t, *pair) for t, pair in zip(following.tolist(), pairs, strict=True)]
    return Scored(choices=choices, last=logits[-1])


def _chunk(engine: Engine, sequence: Scheduled, start: int, count: int) -> Float[Tensor, "T V"]:
    batch = flatten(
        [Chunk(sequence, start, count)],
        [engine.blocks.table(KEY)],
        page_size=engine.config.page_size,
        device=engine.executor.cache.keys.device,
        adapters=engine.adapters is not None,
    )
    everywhere = torch.arange(count, device=batch.ids.device)
    return engine.executor.run(replace(batch, last=everywhere))
