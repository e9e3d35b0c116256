"""What offloading costs against what the bandwidth sums predict, on SmolLM2.

Cold pages: the gain of loading a prompt's keys and values over computing them. Layers: seconds a
decoding step. Each prediction uses rates measured apart from what it predicts: bandwidth on other
pages or without computing beside it, the prefill's rate on another prompt.

Quality gate: logits after loading equal those on pages that never left, and logits of streamed
layers equal the plain model's, bit for bit.

Run on an idle machine: python -m benchmarks.offload
"""

import copy
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.peers import RESULTS
from labkit.data import pydoc_corpus
from labkit.inference.int8_cache import KVFormat
from labkit.inference.layer_streaming import blocks_bytes, step_seconds, stream_layers
from labkit.inference.native_executor import NativeExecutor
from labkit.inference.offload import ColdStore, loading_gain
from labkit.inference.paging import BlockManager
from labkit.inference.scheduler import Chunk, Sequence
from labkit.inference.step_batch import flatten
from labkit.inference.weight_sources import FileWeights
from labkit.model import zoo
from labkit.model.cache import KVCache
from labkit.model.minillm import MiniLLM
from labkit.runtime.records import Record, append_record

PROMPT, PAGE = 481, 16  # tokens: 30 whole pages and the token that is left to compute
ROUNDS = 5


def record(
    metric: str, predicted: list[float], measured: list[float], unit: str, setting: dict[str, Any]
) -> None:
    """Append and print one row: what was measured, predicted, and the rounds' median ratio."""
    ratios = [m / p for m, p in zip(measured, predicted, strict=True)]
    row = Record(
        metric=metric,
        value=round(median(measured), 5),
        unit=unit,
        spread=round((max(measured) - min(measured)) / 2, 5),
        command="python -m benchmarks.offload",
        extra={
            **setting,
            "predicted": round(median(predicted), 5),
            "measured_over_predicted": round(median(ratios), 3),
            "rounds": len(measured),
            "gate": "logits are equal bit for bit",
        },
    )
    append_record(RESULTS / "offload.jsonl", row)
    print(metric, row.value, unit, row.extra)


class ColdPrompts:
    """An executor whose pages hold one prompt, so that each prompt makes the last one cold."""

    def __init__(self, model: MiniLLM, kv: KVFormat, folder: Path | None) -> None:
        pages = PROMPT // PAGE + 1
        self.executor = NativeExecutor(model, num_pages=pages, bits=16, kv=kv)
        self.store = ColdStore(self.executor.cache, capacity=8 * pages, folder=folder)
        self.blocks = BlockManager(pages, PAGE, cold=self.store)
        self.key = 0

    def serve(self, ids: list[int]) -> tuple[int, float, float, torch.Tensor]:
        """Tokens found, seconds to load them, seconds to compute the rest, logits.

        What makes other pages cold is counted neither as loading nor as computing.
        """
        storing = self.store.counts.store_seconds
        began = time.perf_counter()
        found = self.blocks.begin(self.key, ids)
        load_s = time.perf_counter() - began - (self.store.counts.store_seconds - storing)
        self.blocks.reserve(self.key, len(ids))
        ready = time.perf_counter()
        chunk = Chunk(Sequence(self.key, ids), found, len(ids) - found)
        batch = flatten(
            [chunk], [self.blocks.table(self.key)], page_size=PAGE, device=torch.device("cpu")
        )
        logits = self.executor.run(batch)
        done = time.perf_counter()
        self.blocks.fill(self.key, ids, len(ids))
        self.blocks.end(self.key)
        self.key += 1
        return found, load_s, done - ready, logits


def cold_pages(model: MiniLLM, texts: Iterator[list[int]], kv: KVFormat, *, file: bool) -> None:
    """Serve prompts in turn: computed, made cold by the next one, loaded, and while still hot."""
    with tempfile.TemporaryDirectory() as folder:
        prompts = ColdPrompts(model, kv, Path(folder) if file else None)
        counts = prompts.store.counts
        warm, other, *measured = [next(texts) for _ in range(ROUNDS + 2)]
        prompts.serve(warm)
        _, _, compute_s, _ = prompts.serve(other)
        for ids in (warm, other):
            prompts.serve(ids)
        nbytes = (PROMPT - 1) // PAGE * prompts.store.page_bytes
        setting = {
            "tokens": PROMPT - 1,
            "nbytes": nbytes,
            "bandwidth_bytes_s": counts.load_bandwidth,
            "prefill_tokens_s": PROMPT / compute_s,
        }
        predicted = loading_gain(**setting)
        gains = []
        for ids in measured:
            _, _, compute_s, _ = prompts.serve(ids)
            prompts.serve(other)
            found, load_s, _, cold = prompts.serve(ids)
            _, _, _, hot = prompts.serve(ids)
            if found != PROMPT - 1 or not torch.equal(cold, hot):
                raise SystemExit("a cold prompt is not the hot one: nothing recorded")
            gains.append(compute_s / load_s)
        setting |= {"kv": kv, "store": "file" if file else "memory"}
        record("cold_pages", [predicted] * ROUNDS, gains, "times as fast as computing", setting)


def decoding(model: MiniLLM, ids: list[int]) -> Iterator[tuple[float, torch.Tensor]]:
    """Seconds of one decoding step after another, and their logits."""
    cache = KVCache(model.config, batch_size=1, max_length=len(ids), dtype=torch.bfloat16)
    with torch.inference_mode():
        model(torch.tensor([ids[: -ROUNDS - 1]]), cache=cache, last_only=True)
    for token in ids[-ROUNDS - 1 :]:
        with torch.inference_mode():
            began = time.perf_counter()
            logits = model(torch.tensor([[token]]), cache=cache)
            seconds = time.perf_counter() - began
        yield seconds, logits


def streamed_layers(model: MiniLLM, ids: list[int], resident: int) -> None:
    """Steps of both models in turn, and reading alone before each; the file is in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        state = model.state_dict()
        state.pop("lm_head.weight")  # the embedding's memory
        save_file(state, path)
        streamed = copy.deepcopy(model)
        stream = stream_layers(streamed, FileWeights(path), resident=resident)
        source, buffer = FileWeights(path), stream.buffers[0]
        layers = range(resident, model.config.num_layers)
        nbytes = len(layers) * stream.layer_bytes
        predicted, measured = [], []
        own = {name: torch.empty_like(tensor) for name, tensor in buffer.items()}
        for plain, other in zip(decoding(model, ids), decoding(streamed, ids), strict=True):
            began = time.perf_counter()
            for layer in layers:
                source.read({f"model.layers.{layer}.{name}": t for name, t in own.items()})
            bandwidth = nbytes / (time.perf_counter() - began)
            predicted.append(
                step_seconds(
                    streamed_bytes=nbytes, bandwidth_bytes_s=bandwidth, compute_seconds=plain[0]
                )
            )
            measured.append(other[0])
            if not torch.equal(plain[1], other[1]):
                raise SystemExit("streamed layers compute other logits: nothing recorded")
    setting = {
        "resident": resident,
        "streamed_bytes": nbytes,
        "blocks_bytes": blocks_bytes(stream.layer_bytes, resident=resident),
    }
    record("streamed_layers", predicted[1:], measured[1:], "s a step", setting)


def main() -> None:
    loaded = zoo.load("smollm2-135m", dtype="bfloat16", device="cpu")
    text = "\n\n".join(pydoc_corpus.topics())
    ids = loaded.tokenizer.encode(text)
    for kv in ("model", "int8"):
        for file in (False, True):
            texts = (ids[at : at + PROMPT] for at in range(0, len(ids), PROMPT))
            cold_pages(loaded.model, texts, kv, file=file)
    for resident in (0, 15, 25):
        streamed_layers(loaded.model, ids[:64], resident)


if __name__ == "__main__":
    main()
