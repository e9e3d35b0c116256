"""The same SmolLM2 twice: labkit's and the one that transformers loads from its exported folder."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from labkit.model import huggingface, zoo
from labkit.runtime.records import Record, append_record
from labkit.runtime.timing import Timing

RESULTS = Path(__file__).parent / "results"
OURS, PEER = "labkit", "peer"


@contextmanager
def same_model(dtype: torch.dtype) -> Iterator[tuple[zoo.Loaded, nn.Module]]:
    """labkit's model and transformers', with the same weights in the same type."""
    loaded = zoo.load("smollm2-135m", dtype=str(dtype).removeprefix("torch."), device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        huggingface.save_folder(loaded.model, loaded.tokenizer, folder)
        peer = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    yield loaded, peer.eval()


def write_ratio(
    metric: str,
    timings: dict[str, Timing],
    work: int,
    unit: str,
    extra: dict[str, object],
    *,
    module: str = "",
) -> Record:
    """Record how many times the peer's rate ours is: median of the pairwise ratios, their spread.

    Each round timed both, one after the other, so a ratio within a round is free of the drift
    between rounds. `spread` is half the range of the rounds' ratios. `module` is the benchmark's,
    where it is not called as the metric is.
    """
    pairs = zip(timings[OURS].samples_s, timings[PEER].samples_s, strict=True)
    ratios = torch.tensor([theirs / ours for ours, theirs in pairs])
    rates = {name: round(work / timing.median_s, 1) for name, timing in timings.items()}
    record = Record(
        metric=metric,
        value=round(float(ratios.median()), 3),
        unit="times the peer",
        spread=round(float(ratios.max() - ratios.min()) / 2, 3),
        command=f"python -m benchmarks.{module or metric}",
        extra={**extra, "rates": rates, "rate_unit": unit, "rounds": len(ratios)},
    )
    append_record(RESULTS / f"{module or metric}.jsonl", record)
    return record
