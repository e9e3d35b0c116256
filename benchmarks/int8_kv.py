"""What keys and values in 8 bits cost and save, on SmolLM2 with bfloat16 weights.

Quality: KL per token against pages in bfloat16 on held-out documentation, and how far greedy texts
agree. Speed: seconds of a decoding step at several lengths, both formats in turn.

Run on an idle machine: python -m benchmarks.int8_kv
"""

from dataclasses import replace
from itertools import takewhile

import torch
from torch import Tensor

from benchmarks.peers import RESULTS
from labkit.data import pydoc_corpus
from labkit.inference.int8_cache import KVFormat
from labkit.inference.native_executor import NativeExecutor
from labkit.inference.scheduler import Chunk, Sequence
from labkit.inference.step_batch import StepBatch, flatten
from labkit.model import zoo
from labkit.runtime.records import Record, append_record
from labkit.runtime.timing import interleave

WINDOW, WINDOWS = 256, 8
PROMPT, NEW = 64, 96
LENGTHS, BATCH = (256, 1024, 2000), 8
KINDS: tuple[KVFormat, ...] = ("model", "int8")


def chunk_batch(ids: list[int], start: int, *, pages: range, every: bool = False) -> StepBatch:
    """Tokens from `start` on, with logits after each or after the last."""
    chunk = Chunk(Sequence(0, ids), start, len(ids) - start)
    batch = flatten([chunk], [list(pages)], page_size=16, device=torch.device("cpu"))
    return replace(batch, last=torch.arange(len(batch.ids))) if every else batch


def kl(executors: dict[str, NativeExecutor], windows: list[list[int]]) -> tuple[float, float]:
    """Mean KL(bfloat16 || int8) a token in nats, and how often the likeliest token is the same."""
    total, same, count = 0.0, 0, 0
    for ids in windows:
        batch = chunk_batch(ids, 0, pages=range(WINDOW // 16), every=True)
        wide, ours = (executor.run(batch).log_softmax(-1) for executor in executors.values())
        total += float((wide.exp() * (wide - ours)).sum())
        same += int((wide.argmax(-1) == ours.argmax(-1)).sum())
        count += len(ids)
    return total / count, same / count


def greedy(executor: NativeExecutor, prompt: list[int]) -> list[int]:
    """The NEW likeliest tokens, one after the other."""
    ids, start = list(prompt), 0
    for _ in range(NEW):
        logits: Tensor = executor.run(chunk_batch(ids, start, pages=range(16)))
        start = len(ids)
        ids.append(int(logits.argmax()))
    return ids[len(prompt) :]


def agreement(executors: dict[str, NativeExecutor], windows: list[list[int]]) -> float:
    """Mean share of greedy tokens before the first that differs."""
    shares = []
    for ids in windows:
        pairs = zip(*(greedy(e, ids[:PROMPT]) for e in executors.values()), strict=True)
        shares.append(len(list(takewhile(lambda pair: pair[0] == pair[1], pairs))) / NEW)
    return sum(shares) / len(shares)


def step_seconds(executors: dict[str, NativeExecutor], length: int) -> dict[str, float]:
    """Of one token for each of BATCH sequences that share a prefix of that length."""
    sequences = [Sequence(key, [5] * length) for key in range(BATCH)]
    chunks = [Chunk(sequence, length - 1, 1) for sequence in sequences]
    tables = [list(range(-(-length // 16)))] * BATCH
    batch = flatten(chunks, tables, page_size=16, device=torch.device("cpu"))
    timings = interleave({n: lambda e=e: e.run(batch) for n, e in executors.items()}, repeats=9)
    return {name: timing.median_s for name, timing in timings.items()}


def main() -> None:
    loaded = zoo.load("smollm2-135m", dtype="bfloat16", device="cpu")
    executors = {kv: NativeExecutor(loaded.model, num_pages=128, bits=16, kv=kv) for kv in KINDS}
    _, held_out = pydoc_corpus.split(pydoc_corpus.functions())
    ids = loaded.tokenizer.encode("\n\n".join(pydoc_corpus.as_text(held_out)))
    windows = [ids[at : at + WINDOW] for at in range(0, WINDOW * WINDOWS, WINDOW)]
    nats, same = kl(executors, windows)
    settings = {
        "top1_agreement": round(same, 4),
        "greedy_agreement": round(agreement(executors, windows), 3),
        "tokens": WINDOW * WINDOWS,
        "bytes_over_bfloat16": round(
            executors["int8"].cache.nbytes / executors["model"].cache.nbytes, 4
        ),
        "step_seconds": {length: step_seconds(executors, length) for length in LENGTHS},
        "batch_size": BATCH,
    }
    record = Record(
        metric="int8_kv",
        value=round(nats, 6),
        unit="nats a token",
        command="python -m benchmarks.int8_kv",
        extra=settings,
    )
    append_record(RESULTS / "int8_kv.jsonl", record)
    print(record.value, settings)


if __name__ == "__main__":
    main()
