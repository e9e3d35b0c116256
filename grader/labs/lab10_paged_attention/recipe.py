"""The run at the end of lab 10: SmolLM2 answers ragged requests through a learner's own parts.

`python -m grader.labs.lab10_paged_attention.recipe` repeats the run with labkit's parts for several
seeds and writes `solutions/lab10_paged_attention/envelope.json`, the normal results that a
learner's curve is drawn over. No clock is read: a curve has steps and tokens only.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from grader.labs import envelope
from labkit.model.layers import apply_rope, rope_table
from labkit.model.minillm import MiniLLM

ENVELOPE_SEEDS = (1, 2, 3, 4, 5)
TEXT = (
    "A baker keeps flour in jars of one size. Whoever bakes takes a jar when the last one is "
    "empty, and puts it back when the bread is sold. Nobody asks in the morning how much will be "
    "baked, yet no flour lies idle, and when the shelf is bare the one who came last has to wait. "
    "Once a day the jars are counted, and if one is missing somebody has forgotten to bring it "
    "back. "
)
Attend = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
Chunks = Sequence[tuple[int, int, list[int]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Settings of the run; every learner's and every envelope's run has the same.

    Attributes:
        progress: Steps at which curves are compared, as multiples of `fewest_steps`.
    """

    requests: int = 16
    most_prompt: int = 30
    most_new: int = 24
    num_pages: int = 14
    page_size: int = 8
    token_budget: int = 16
    max_batch: int = 6
    progress: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt that is to be answered with so many tokens."""

    prompt: list[int]
    most_new: int


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did: tokens run, pages in use, answered tokens by request."""

    tokens: int
    used_pages: int
    chosen: dict[int, int]


def traffic(tokenizer: Any, recipe: Recipe, seed: int) -> list[Request]:
    """Pieces of a text of ragged lengths, with answers of ragged lengths."""
    rng = np.random.default_rng(seed)
    ids = tokenizer.encode(TEXT)
    requests = []
    for _ in range(recipe.requests):
        length = 3 + min(recipe.most_prompt - 3, int(rng.exponential(recipe.most_prompt / 3)))
        new = 2 + min(recipe.most_new - 2, int(rng.exponential(recipe.most_new / 2)))
        start = int(rng.integers(0, len(ids) - length))
        requests.append(Request(ids[start : start + length], new))
    return requests


class Pages:
    """Keys and values (L, P, p, G, K) of a model, nan where nobody has written."""

    def __init__(self, model: MiniLLM, num_pages: int, page_size: int) -> None:
        config = model.config
        heads = config.num_kv_heads, config.head_width
        shape = config.num_layers, num_pages, page_size, *heads
        self.keys, self.values = torch.full(shape, math.nan), torch.full(shape, math.nan)
        self.page_size = page_size

    def copy(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copy whole pages in every layer."""
        for source, to in copies:
            self.keys[:, to], self.values[:, to] = self.keys[:, source], self.values[:, source]


@torch.no_grad()
def run(
    model: MiniLLM, pages: Pages, chunks: Chunks, tables: Sequence[list[int]], attend: Attend
) -> Tensor:
    """Logits (B, V) after each chunk.

    Every token of a chunk is to `attend` a sequence of its own, which ends with it.
    """
    config, p = model.config, pages.page_size
    ids = torch.tensor([token for _, _, tokens in chunks for token in tokens])
    positions = torch.cat([start + torch.arange(len(tokens)) for _, start, tokens in chunks])
    counts = torch.tensor([len(tokens) for _, _, tokens in chunks])
    wide = max(map(len, tables))
    rows = torch.tensor([[*table, *[-1] * (wide - len(table))] for table in tables])
    rows = rows.repeat_interleave(counts, dim=0)
    page, row = rows.gather(1, positions[:, None] // p)[:, 0], positions % p
    rope = rope_table(positions[None], config.head_width, config.rope_theta)
    x = model.model.embed_tokens(ids)
    blocks: list[Any] = list(model.model.layers)
    for block, keys, values in zip(blocks, pages.keys, pages.values, strict=True):
        attention = block.self_attn
        normed = block.input_layernorm(x)
        heads = (1, len(ids), -1, config.head_width)
        q = apply_rope(attention.q_proj(normed).view(heads), *rope)[0]
        keys[page, row] = apply_rope(attention.k_proj(normed).view(heads), *rope)[0]
        values[page, row] = attention.v_proj(normed).view(heads)[0]
        y = attend(q, keys, values, rows, positions + 1)  # (N, H, K)
        x = x + attention.o_proj(y.flatten(1))
        x = x + block.mlp(block.post_attention_layernorm(x))
    logits = model.lm_head(model.model.norm(x[counts.cumsum(0) - 1]))
    return cast(Tensor, logits)


def serve(
    model: MiniLLM,
    requests: Sequence[Request],
    scheduler: Any,
    manager: Any,
    attend: Attend,
    recipe: Recipe,
) -> Iterator[Step]:
    """Answer all requests greedily, yielding after every step."""
    pages = Pages(model, recipe.num_pages, recipe.page_size)
    for key, request in enumerate(requests):
        scheduler.add(key, request.prompt, request.most_new)
    lengths = [len(request.prompt) for request in requests]
    unfinished, opened = set(range(len(requests))), set[int]()
    while unfinished:
        chunks, preempted = scheduler.plan()
        if not chunks:
            raise ValueError(f"an empty plan, while requests {sorted(unfinished)} wait")
        for key in preempted:
            manager.end(key)
            opened.remove(key)
        for key, _, tokens in chunks:
            if key not in opened:
                manager.begin(key)
                opened.add(key)
            pages.copy(manager.append(key, len(tokens)))
        used = recipe.num_pages - manager.free_pages
        tables = [manager.table(key) for key, _, _ in chunks]
        best = run(model, pages, chunks, tables, attend).argmax(-1).tolist()
        chosen = {
            key: token
            for (key, start, tokens), token in zip(chunks, best, strict=True)
            if start + len(tokens) == lengths[key]
        }
        for key in chosen:
            lengths[key] += 1
        for key in scheduler.finish(chosen):
            manager.end(key)
            opened.remove(key)
            unfinished.remove(key)
        yield Step(sum(len(tokens) for _, _, tokens in chunks), used, chosen)


def answers(steps: Sequence[Step], count: int) -> list[list[int]]:
    """Each request's answer, token by token."""
    return [[s.chosen[key] for s in steps if key in s.chosen] for key in range(count)]


def fewest_steps(requests: Sequence[Request], recipe: Recipe) -> int:
    """Steps in which all answers could be written, were no prompt to be run and pages endless."""
    return math.ceil(sum(request.most_new for request in requests) / recipe.max_batch)


def once(requests: Sequence[Request]) -> int:
    """Tokens to be run if none is run twice."""
    return sum(len(request.prompt) + request.most_new - 1 for request in requests)


def written(steps: Sequence[Step], requests: Sequence[Request], recipe: Recipe) -> list[float]:
    """The share of all answered tokens that is there after so many times the fewest steps."""
    total = np.cumsum([0, *(len(step.chosen) for step in steps)])
    at = np.array(recipe.progress) * fewest_steps(requests, recipe)
    found = np.interp(at, np.arange(len(total)), total / total[-1])
    return [float(share) for share in found]


def main(path: Path) -> None:
    """Write the envelope: a row of shares a seed, and how it was made."""
    from grader.labs.lab10_paged_attention import reference
    from labkit.model import zoo

    recipe, loaded = Recipe(), zoo.load("smollm2-135m", dtype="float32", device="cpu")
    sizes = recipe.num_pages, recipe.page_size
    runs = []
    for seed in ENVELOPE_SEEDS:
        requests = traffic(loaded.tokenizer, recipe, seed)
        scheduler = reference.StepScheduler(*sizes, recipe.token_budget, recipe.max_batch)
        parts = scheduler, reference.PageManager(*sizes), reference.paged_decode
        steps = list(serve(loaded.model, requests, *parts, recipe))
        runs.append([round(share, 4) for share in written(steps, requests, recipe)])
        again = sum(step.tokens for step in steps) / once(requests)
        sys.stderr.write(f"seed {seed}: {len(steps)} steps, work {again:.2f}, {runs[-1]}\n")
    results = {
        "metric": "share of all answered tokens after multiples of the fewest steps",
        "unit": "share",
        "progress": recipe.progress,
        "runs": runs,
        "seeds": ENVELOPE_SEEDS,
    }
    envelope.write(path, "lab10_paged_attention", results)


if __name__ == "__main__":
    main(Path("solutions/lab10_paged_attention/envelope.json"))
