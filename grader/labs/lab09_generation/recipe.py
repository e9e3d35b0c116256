"""The run at the end of lab 09: SmolLM2 around a learner's attention, and its speed over context.

`python -m grader.labs.lab09_generation.recipe` measures right implementations and writes
`solutions/lab09_generation/envelope.json`, the normal results that a learner's curve is drawn over.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grader.labs import envelope
from grader.labs.lab09_generation.drive import Cache, empty_cache
from labkit.model import zoo
from labkit.model.layers import apply_rope, rope_table
from labkit.model.minillm import MiniLLM
from labkit.runtime.timing import interleave

CONTEXTS = (64, 512, 1024, 2048)
RUNS = 3
REPEATS = 5
Attend = Callable[[Tensor, Tensor, Tensor, Cache], Tensor]


def empty_caches(model: MiniLLM, max_length: int) -> list[Cache]:
    """One cache a layer, for one text."""
    G, K = model.config.num_kv_heads, model.config.head_width
    return [empty_cache(1, G, max_length, K) for _ in model.model.layers]


@torch.no_grad()
def next_logits(model: MiniLLM, ids: Tensor, caches: list[Cache], attend: Attend) -> Tensor:
    """Run T new tokens (1, T) through the model; logits (1, V) of the token after them."""
    config, T, past = model.config, ids.shape[1], int(caches[0].length)
    positions = torch.arange(past, past + T)[None]
    rope = rope_table(positions, config.head_width, config.rope_theta)
    x = model.model.embed_tokens(ids)
    blocks: list[Any] = list(model.model.layers)
    for block, cache in zip(blocks, caches, strict=True):
        attention = block.self_attn
        normed = block.input_layernorm(x)
        heads = (1, T, -1, config.head_width)
        q = apply_rope(attention.q_proj(normed).view(heads), *rope).transpose(1, 2)
        k = apply_rope(attention.k_proj(normed).view(heads), *rope).transpose(1, 2)
        v = attention.v_proj(normed).view(heads).transpose(1, 2)
        y = attend(q, k, v, cache)  # (1, H, T, K)
        x = x + attention.o_proj(y.transpose(1, 2).reshape(1, T, -1))
        x = x + block.mlp(block.post_attention_layernorm(x))
    logits: Tensor = model.lm_head(model.model.norm(x[:, -1]))
    return logits


def step_ms(
    model: MiniLLM, attend: Attend, contexts: tuple[int, ...] = CONTEXTS, repeats: int = REPEATS
) -> list[float]:
    """Median milliseconds of one decoded token at each context, whatever the cache holds."""
    caches = empty_caches(model, max(contexts) + 1)
    token = torch.tensor([[100]])

    def step_at(context: int) -> Callable[[], Tensor]:
        def step() -> Tensor:
            for cache in caches:
                cache.length = context
            return next_logits(model, token, caches, attend)

        return step

    timings = interleave({str(S): step_at(S) for S in contexts}, repeats)
    return [1e3 * timings[str(S)].median_s for S in contexts]


def relative(step_times_ms: list[float]) -> list[float]:
    """Each time over the one at the shortest context, which machines have more in common."""
    return [ms / step_times_ms[0] for ms in step_times_ms]


def expanded(q: Tensor, k: Tensor, v: Tensor, cache: Any) -> Tensor:
    """A right implementation that copies each key/value head to all its query heads, one token."""
    past = cache.length
    cache.keys[:, :, past : past + 1], cache.values[:, :, past : past + 1] = k, v
    cache.length = past + 1
    copies = q.shape[1] // k.shape[1]
    keys, values = (
        buffer[:, :, : past + 1].repeat_interleave(copies, dim=1)
        for buffer in (cache.keys, cache.values)
    )
    scores: Tensor = q @ keys.transpose(2, 3) / q.shape[-1] ** 0.5
    output: Tensor = scores.softmax(-1) @ values
    return output


def main(path: Path) -> None:
    """Write the envelope: some runs of each of two right implementations, and how it was made."""
    from grader.labs.lab09_generation.reference import attend

    model = zoo.load("smollm2-135m", dtype="float32", device="cpu").model
    runs, names = [], []
    for _ in range(RUNS):
        for name, implementation in (("fused", attend), ("expanded", expanded)):
            runs.append([round(ratio, 3) for ratio in relative(step_ms(model, implementation))])
            names.append(name)
            sys.stderr.write(f"{name}: {runs[-1]}\n")
    results = {
        "metric": f"time of a decoded token over that at {CONTEXTS[0]} tokens of context",
        "unit": "ratio",
        "contexts": CONTEXTS,
        "runs": runs,
        "implementations": names,
    }
    envelope.write(path, "lab09_generation", results)


if __name__ == "__main__":
    main(Path("solutions/lab09_generation/envelope.json"))
