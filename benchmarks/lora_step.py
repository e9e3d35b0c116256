"""One LoRA training step on SmolLM2 against `peft` on transformers, same weights and settings.

Quality gate: both start from the same adapter and see the same batches; their losses must agree in
every step that is timed.

Run on an idle machine: python -m benchmarks.lora_step
"""

import tempfile
from collections.abc import Callable, Iterator

import peft
import torch
from torch import nn

from benchmarks.peers import OURS, PEER, same_model, write_ratio
from labkit.data.batch import TokenBatch
from labkit.runtime.seeding import generator
from labkit.runtime.timing import interleave
from labkit.training.config import TrainConfig
from labkit.training.loop import train
from labkit.tuning import adapter_files, lora

ROWS, LENGTH, ROUNDS = 4, 128, 9
SETTINGS = lora.LoraConfig(rank=16, alpha=32.0, target_modules="all-linear")
LOSS_TOLERANCE = 1e-3


def batches(vocab_size: int) -> Iterator[TokenBatch]:
    """The same endless random tokens for both: the cost of a step does not depend on the text."""
    source = generator(0)
    while True:
        ids = torch.randint(vocab_size, (ROWS, LENGTH), generator=source)
        yield TokenBatch(ids=ids, labels=ids)


def stepper(model: nn.Module, vocab_size: int, losses: list[float]) -> Callable[[], None]:
    """A function that makes the next step of labkit's own loop and notes its loss."""
    config = TrainConfig(steps=10 * ROUNDS, lr=1e-4)
    records = train(model, batches(vocab_size), config)
    return lambda: losses.append(next(records).loss_nats)


def main() -> None:
    with same_model(torch.float32) as (ours, base), tempfile.TemporaryDirectory() as folder:
        vocab_size = ours.config.vocab_size
        lora.apply(ours.model, SETTINGS, generator=generator(0))
        adapter_files.save(ours.model, folder, SETTINGS, "smollm2-135m")
        peer = peft.PeftModel.from_pretrained(base, folder, is_trainable=True)
        losses: dict[str, list[float]] = {OURS: [], PEER: []}
        timings = interleave(
            {
                OURS: stepper(ours.model.train(), vocab_size, losses[OURS]),
                PEER: stepper(peer.train(), vocab_size, losses[PEER]),
            },
            ROUNDS,
            warmup=2,
        )
        trainable = lora.trainable_parameters(ours.model).trainable
    gap = max(abs(a - b) for a, b in zip(losses[OURS], losses[PEER], strict=True))
    if gap > LOSS_TOLERANCE:
        raise SystemExit(f"the losses differ by {gap:.1e} nats, nothing recorded")
    record = write_ratio(
        "lora_step",
        timings,
        ROWS * LENGTH,
        "tok/s",
        {
            "model": "smollm2-135m",
            "dtype": "float32",
            "batch": [ROWS, LENGTH],
            "rank": SETTINGS.rank,
            "target_modules": SETTINGS.target_modules,
            "trainable": trainable,
            "peer": f"peft {peft.__version__} on transformers",
            "gate": f"losses of all steps agree within {LOSS_TOLERANCE} nats (met: {gap:.1e})",
        },
    )
    print(f"LoRA step: {record.value} ± {record.spread}, {record.extra['rates']}")


if __name__ == "__main__":
    main()
