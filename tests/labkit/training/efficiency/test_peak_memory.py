"""The peak foretold, against torch's profiler on real steps: within 10 %, over many shapes."""

from contextlib import nullcontext

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from labkit.model.config import ModelConfig
from labkit.model.minillm import MiniLLM, initialise
from labkit.objectives.language_modelling import cross_entropy
from labkit.training.efficiency import peak_memory
from labkit.training.efficiency.checkpointing import checkpointed
from labkit.training.efficiency.measured_memory import AllocationTracker
from labkit.training.efficiency.saved_activations import Step
from labkit.tuning import lora

SIZES = {"num_heads": 6, "num_kv_heads": 2, "max_length": 400}
SHAPES = {
    "wide vocabulary": ModelConfig(
        vocab_size=3001, width=60, num_layers=3, head_width=10, ffn_width=160, **SIZES
    ),
    "untied": ModelConfig(
        vocab_size=1201, width=60, num_layers=3, head_width=10, ffn_width=160,
        tie_embeddings=False, **SIZES,
    ),
    "deep": ModelConfig(
        vocab_size=97, width=60, num_layers=7, head_width=22, ffn_width=70, **SIZES
    ),
    "wide": ModelConfig(
        vocab_size=301, width=96, num_layers=4, head_width=16, ffn_width=260, **SIZES
    ),
}  # fmt: skip
ADAPTERS = {"full": None, "qv": lora.LoraConfig(rank=3),
            "all": lora.LoraConfig(rank=5, target_modules="all-linear")}  # fmt: skip


class Run:
    """A model that has taken one step, so that its optimizer has its state."""

    def __init__(self, config: ModelConfig, step: Step) -> None:
        self.step = step
        self.model = MiniLLM(config)
        initialise(self.model, torch.Generator().manual_seed(0))
        if step.item_bytes == 2:
            self.model.to(torch.bfloat16)
        if step.lora is not None:
            lora.apply(self.model, step.lora)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-3)
        self.ids = torch.randint(0, config.vocab_size, (step.batch, step.length))
        self.take()

    def take(self) -> None:
        mode = self.step.recompute
        with nullcontext() if mode == "none" else checkpointed(self.model, mode):
            loss, count = cross_entropy(self.model(self.ids), self.ids)
            (loss / count).backward()
            del loss
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def state_bytes(self) -> int:
        states = [x for state in self.optimizer.state.values() for x in state.values()]
        return sum(x.nbytes for x in (*self.model.parameters(), *states))

    def tracked_peak(self) -> int:
        tracker = AllocationTracker()
        tracker.watch(self.model.parameters())
        tracker.watch(x for state in self.optimizer.state.values() for x in state.values())
        with tracker:
            self.take()
        return tracker.peak_bytes

    def profiled_peak(self) -> int:
        """State plus the high-water mark of all that torch's allocator gave and took back."""
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            self.take()
        events = profiled.profiler.kineto_results.events()
        sizes = [e for e in events if e.name() == "[memory]"]
        now = peak = 0
        for event in sorted(sizes, key=lambda e: e.start_ns()):
            now += event.nbytes()
            peak = max(peak, now)
        return self.state_bytes() + peak


STEPS = [
    ("wide vocabulary", {"batch": 2, "length": 5}, "optimizer"),
    ("wide vocabulary", {"batch": 3, "length": 50}, "loss"),
    ("untied", {"batch": 2, "length": 5}, "optimizer"),
    ("deep", {"batch": 3, "length": 50}, "loss"),
    ("deep", {"batch": 3, "length": 50, "recompute": "full"}, "first block"),
    ("wide", {"batch": 5, "length": 70, "recompute": "selective"}, "loss"),
    ("wide", {"batch": 2, "length": 300, "item_bytes": 2}, "loss"),
]


@pytest.mark.parametrize(("shape", "settings", "moment"), STEPS)
def test_full_training(shape: str, settings: dict[str, int], moment: str) -> None:
    step = Step(**settings)
    account = peak_memory.account(SHAPES[shape], step)
    run = Run(SHAPES[shape], step)
    assert account.peak_moment == moment
    assert account.peak == pytest.approx(run.tracked_peak(), rel=0.02)
    assert account.peak == pytest.approx(run.profiled_peak(), rel=0.1)


@pytest.mark.parametrize("adapters", ["qv", "all"])
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("shape", ["deep", "wide"])
def test_lora(shape: str, recompute: str, adapters: str) -> None:
    step = Step(batch=3, length=50, recompute=recompute, lora=ADAPTERS[adapters])
    account = peak_memory.account(SHAPES[shape], step)
    run = Run(SHAPES[shape], step)
    assert account.peak == pytest.approx(run.tracked_peak(), rel=0.05)
    assert account.peak == pytest.approx(run.profiled_peak(), rel=0.1)


@pytest.mark.parametrize("adapters", ADAPTERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_state_is_exact(shape: str, adapters: str) -> None:
    step = Step(batch=2, length=5, lora=ADAPTERS[adapters])
    account = peak_memory.account(SHAPES[shape], step)
    run = Run(SHAPES[shape], step)
    counters = 4 * len(run.optimizer.state)  # AdamW counts each parameter's steps
    assert account.parameters + account.optimizer == run.state_bytes() - counters
    trained = [p for p in run.model.parameters() if p.requires_grad]
    assert account.gradients == sum(p.nbytes for p in trained)


def test_checkpointing_and_lora_lower_the_peak() -> None:
    peaks = [
        peak_memory.account(SHAPES["deep"], Step(batch=8, length=100, **settings)).peak
        for settings in ({}, {"recompute": "selective"}, {"recompute": "full"})
    ]
    assert peaks == sorted(set(peaks), reverse=True)
    adapters = Step(batch=8, length=100, lora=ADAPTERS["qv"])
    assert peak_memory.account(SHAPES["deep"], adapters).peak < peaks[0]
