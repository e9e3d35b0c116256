"""Training steps against peft and transformers on a CPU: the same weights, examples and settings.

Three settings: a LoRA step of SmolLM2 in bfloat16 and in float32 whose tokens all count; LoRA on
short questions and answers, 32 a step, padded by the peer and packed by us; pretraining the
shape of `mini` with products in bfloat16 over float32 weights. There the peer takes the steps of
transformers' Trainer with bf16=True, elsewhere those of labkit's loop. Ours run fused layers
(`labkit.model.fused`) and a loss that never holds all logits. Peak memory is that of processes of
their own, less what they held before the model.

Quality gate: both take the same steps on the same examples, and their losses agree in each.
Roofline, written beside each record: the matrix products' FLOPs a step, and what they would take
at the machine's own speed for one large product.

Run on an idle machine: python -m benchmarks.training
"""

import ctypes
import gc
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import nn

from benchmarks.peers import OURS, PEER, RESULTS, write_ratio
from labkit.data import packing, pydoc_corpus
from labkit.data.batch import Example, TokenBatch, collate, shuffled_groups
from labkit.data.chat import encode_chat
from labkit.data.questions import question_answers
from labkit.model import fused, huggingface, zoo
from labkit.model.minillm import MiniLLM, initialise
from labkit.runtime.records import Record, append_record
from labkit.runtime.seeding import generator
from labkit.runtime.timing import (
    Timing,
    interleave,
    measure,
    resident_bytes,
    track_memory,
)
from labkit.training.config import TrainConfig
from labkit.training.forward import causal_lm_loss, fused_lm_loss
from labkit.training.loop import learning_rate, train
from labkit.tuning import adapter_files, lora

ROUNDS, MEMORY_RUNS, MEMORY_STEPS = 9, 3, 3
SETTINGS = lora.LoraConfig(rank=16, alpha=32.0, target_modules="all-linear")
EXAMPLES_A_STEP, PACKED_LENGTH = 32, 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One comparison.

    Attributes:
        metric: Of the record.
        model: Of `zoo.load`.
        dtype: Of the weights; adapters are float32, as peft makes them.
        adapted: LoRA, or all weights.
        autocast: Mixed precision over float32 weights, as TrainConfig's dtype says.
        batches: Endless batches of each side, given its name and the tokenizer.
        tolerance: Most that two losses may differ, in nats: bfloat16 rounds each at its own place.
        work: What a step does, in `unit`.
        unit: Tokens or examples.
        about: What the row says.
    """

    metric: str
    model: str
    dtype: str
    adapted: bool
    autocast: bool
    batches: Callable[[str, Any], Iterator[TokenBatch]]
    tolerance: float
    work: int
    unit: str
    about: str


def random_rows(rows: int, length: int, side: str, tokenizer: Any) -> Iterator[TokenBatch]:
    """The same random tokens for both: a step's cost does not depend on the text."""
    source = generator(0)
    while True:
        ids = torch.randint(tokenizer.vocab_size, (rows, length), generator=source)
        yield TokenBatch(ids=ids, labels=ids)


def questions(side: str, tokenizer: Any) -> Iterator[TokenBatch]:
    """32 short conversations a step, the loss on the answers; padded, or packed for us."""
    training, _ = pydoc_corpus.split(pydoc_corpus.functions())
    encoded = [encode_chat(tokenizer, chat) for chat in question_answers(training)]
    examples = [example for example in encoded if len(example.ids) <= PACKED_LENGTH]
    for group in shuffled_groups(len(examples), EXAMPLES_A_STEP, generator(0), None):
        yield _together([examples[i] for i in group], side, tokenizer.pad_id)


def _together(examples: list[Example], side: str, pad_id: int) -> TokenBatch:
    if side == PEER:
        return collate(examples, pad_id)
    return packing.stack(packing.pack(examples, length=PACKED_LENGTH, pad_id=pad_id))


COMPARED = (
    Setting(
        metric="lora_step",
        model="smollm2-135m",
        dtype="bfloat16",
        adapted=True,
        autocast=False,
        batches=partial(random_rows, 4, 128),
        tolerance=2e-2,
        work=4 * 128,
        unit="tok",
        about="bfloat16, batch 4×128",
    ),
    Setting(
        metric="lora_step",
        model="smollm2-135m",
        dtype="float32",
        adapted=True,
        autocast=False,
        batches=partial(random_rows, 4, 128),
        tolerance=1e-3,
        work=4 * 128,
        unit="tok",
        about="float32, batch 4×128",
    ),
    Setting(
        metric="lora_questions",
        model="smollm2-135m",
        dtype="bfloat16",
        adapted=True,
        autocast=False,
        batches=questions,
        tolerance=2e-2,
        work=EXAMPLES_A_STEP,
        unit="examples",
        about=f"bfloat16, {EXAMPLES_A_STEP} short questions and answers",
    ),
    Setting(
        metric="pretraining",
        model="mini",
        dtype="float32",
        adapted=False,
        autocast=True,
        batches=partial(random_rows, 8, 128),
        tolerance=2e-2,
        work=8 * 128,
        unit="tok",
        about="mini from scratch, bfloat16 products, batch 8×128",
    ),
)


def models(setting: Setting) -> tuple[MiniLLM, nn.Module, Any]:
    """Ours and the peer with the same weights, and the tokenizer."""
    loaded = zoo.load(setting.model, dtype=setting.dtype, device="cpu")
    if not setting.adapted:
        initialise(loaded.model, generator(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        huggingface.save_folder(loaded.model, loaded.tokenizer, folder / "model")
        peer: nn.Module = transformers.AutoModelForCausalLM.from_pretrained(
            folder / "model", dtype=getattr(torch, setting.dtype)
        )
        if setting.adapted:
            lora.apply(loaded.model, SETTINGS, generator=generator(0), dtype=torch.float32)
            adapter_files.save(loaded.model, folder / "adapter", SETTINGS, setting.model)
            peer = peft.PeftModel.from_pretrained(peer, folder / "adapter", is_trainable=True)
    fused.fuse(loaded.model)
    return loaded.model, peer, loaded.tokenizer


def stepper(
    setting: Setting, side: str, model: nn.Module, tokenizer: Any, losses: list[float]
) -> Callable[[], None]:
    """A function that makes the next step and notes its loss."""
    loss = fused_lm_loss if side == OURS else causal_lm_loss
    products = "bfloat16" if setting.autocast else "float32"
    config = TrainConfig(steps=10 * ROUNDS, lr=1e-4, dtype=products)
    batches = setting.batches(side, tokenizer)
    if side == PEER and not setting.adapted:
        nats = trainer_style(model.train(), batches, config)
        return lambda: losses.append(next(nats))
    records = train(model.train(), batches, config, loss=loss)
    return lambda: losses.append(next(records).loss_nats)


def trainer_style(
    model: nn.Module, batches: Iterator[TokenBatch], config: TrainConfig
) -> Iterator[float]:
    """The loss, clipping and optimizer of transformers' Trainer; yields each step's loss."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=config.betas, weight_decay=0.0, fused=True
    )
    for step, batch in enumerate(batches, start=1):
        optimizer.param_groups[0]["lr"] = learning_rate(step, config)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=batch.ids, labels=batch.labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def compared(setting: Setting) -> tuple[dict[str, Timing], float]:
    """Times of both sides' steps, and the largest difference of their losses."""
    ours, peer, tokenizer = models(setting)
    losses: dict[str, list[float]] = {OURS: [], PEER: []}
    steppers = {
        side: stepper(setting, side, model, tokenizer, losses[side])
        for side, model in ((OURS, ours), (PEER, peer))
    }
    timings = interleave(steppers, ROUNDS, warmup=2)
    return timings, max(abs(a - b) for a, b in zip(losses[OURS], losses[PEER], strict=True))


def peak_bytes(index: int, side: str) -> int:
    """In a process of its own: the most memory that steps need, the model included."""
    before, setting = resident_bytes(), COMPARED[index]
    ours, peer, tokenizer = models(setting)
    model: nn.Module = ours if side == OURS else peer
    del ours, peer
    step = stepper(setting, side, model, tokenizer, [])
    step()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what loading needed goes back to the system
    with track_memory() as memory:
        for _ in range(MEMORY_STEPS):
            step()
    return memory.peak_bytes - before


def peaks(index: int) -> dict[str, list[int]]:
    """Both sides' peaks, each run in a fresh process."""
    found: dict[str, list[int]] = {OURS: [], PEER: []}
    spawn = multiprocessing.get_context("spawn")
    for _ in range(MEMORY_RUNS):
        for side, peaks_bytes in found.items():
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                peaks_bytes.append(pool.submit(peak_bytes, index, side).result())
    return found


def flops(setting: Setting) -> int:
    """Of the matrix products with the model's weights, forward and backward.

    2 a weight and token forward, 2 for the inputs' gradients, and 2 for the weights' if they train.
    """
    model = zoo.load(setting.model, dtype=setting.dtype, device="cpu").model
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    return (4 if setting.adapted else 6) * weights * setting.work


def product_flops_a_second(dtype: torch.dtype, size: int = 2048) -> float:
    """What this machine makes of one large matrix product."""
    a = torch.randn(size, size).to(dtype)
    return 2 * size**3 / measure(lambda: a @ a, repeats=9).min_s


def facts(setting: Setting, timings: dict[str, Timing]) -> dict[str, Any]:
    """The roofline beside the measured step; nothing where steps differ in size."""
    if setting.unit != "tok":
        return {}
    dtype = torch.bfloat16 if setting.autocast else getattr(torch, setting.dtype)
    work, speed = flops(setting), product_flops_a_second(dtype)
    least_s = work / speed
    return {
        "gflop_a_step": round(work / 1e9, 1),
        "gflop_a_second_of_one_product": round(speed / 1e9, 1),
        "roofline_s": round(least_s, 3),
        "share_of_roofline": {
            side: round(least_s / timing.median_s, 2) for side, timing in timings.items()
        },
    }


def run(index: int) -> None:
    """Measure one setting and record time and memory."""
    setting = COMPARED[index]
    timings, gap = compared(setting)
    if gap > setting.tolerance:
        raise SystemExit(f"{setting.about}: losses differ by {gap:.1e} nats, nothing recorded")
    row = {
        "setting": setting.about,
        "model": setting.model,
        "peer": f"peft {peft.__version__}" if setting.adapted else "",
        "gate": f"losses of all steps agree within {setting.tolerance} nats (met: {gap:.1e})",
    }
    row["peer"] += f"{' on ' if row['peer'] else ''}transformers {transformers.__version__}"
    unit = f"{setting.unit}/s"
    more = row | facts(setting, timings)
    record = write_ratio(setting.metric, timings, setting.work, unit, more, module="training")
    print(f"{setting.about}: {record.value} ± {record.spread} times, {record.extra['rates']}")
    print(f"  memory: {write_memory(setting, peaks(index), row)} of the peer's")


def write_memory(setting: Setting, found: dict[str, list[int]], row: dict[str, Any]) -> float:
    """Record our peak as a share of the peer's."""
    ratios = [ours / theirs for ours, theirs in zip(found[OURS], found[PEER], strict=True)]
    rates = {side: round(statistics.median(sizes) / 2**20, 1) for side, sizes in found.items()}
    record = Record(
        metric=f"{setting.metric}_memory",
        value=round(statistics.median(ratios), 3),
        unit="times the peer",
        spread=round((max(ratios) - min(ratios)) / 2, 3),
        command="python -m benchmarks.training",
        extra={**row, "rates": rates, "rate_unit": "MiB"},
    )
    append_record(RESULTS / "training.jsonl", record)
    return record.value


def main() -> None:
    for index in range(len(COMPARED)):
        run(index)


if __name__ == "__main__":
    main()
