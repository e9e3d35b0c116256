"""SmolLM2 with many LoRA adapters in one batch: what a mixed batch costs, ours against peft's.

Greedy decoding of a batch under 1, 4 and 16 adapters (rank 16 on every projection), in float32 and
bfloat16, interleaved:

- our mixed batch against our base alone: the price of the adapters;
- our mixed batch against peft's (`adapter_names=[…]`);
- our mixed batch against switching: each adapter's rows as a batch of their own, one after another.

Also the shapes an engine has: the time of all projections' deltas in one step, decoding and
prefill, by plan, in microseconds. Quality gate: in float32 every row's tokens equal peft's.

Run on an idle machine: python -m benchmarks.adapters
"""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import peft
import torch
from torch import nn

from benchmarks.peers import OURS, PEER, RESULTS, same_model, write_ratio
from labkit.inference.adapters.bank import AdapterBank
from labkit.inference.adapters.grouped import PLANS
from labkit.inference.adapters.mixed import mixed
from labkit.inference.adapters.places import groups, shapes
from labkit.inference.generate import generate_ids
from labkit.inference.sampling import SamplingConfig
from labkit.model.minillm import MiniLLM
from labkit.model.zoo import Loaded
from labkit.runtime.records import Record, append_record
from labkit.runtime.seeding import generator
from labkit.runtime.timing import interleave
from labkit.tuning import adapter_files, lora

BATCH, NEW_TOKENS, ROUNDS = 16, 24, 5
RANK = 16
COUNTS = (1, 4, 16)
STEPS = {"decode": 16, "prefill": 512}  # rows of a step
PROMPT = "The documentation of Python's standard library says that"
CONFIG = SamplingConfig(max_new_tokens=NEW_TOKENS, ignore_eos=True)

Run = Callable[[], torch.Tensor]


def make_adapters(model: MiniLLM, folder: Path) -> list[Path]:
    """As trained ones on disk: small enough that the model still writes text."""
    config = lora.LoraConfig(rank=RANK, alpha=RANK, target_modules="all-linear")
    folders = []
    for seed in range(max(COUNTS)):
        adapted = lora.apply(copy.deepcopy(model), config, generator=generator(seed))
        with torch.no_grad():
            for layer in lora.layers(adapted).values():
                layer.lora_B.weight.normal_(std=0.01, generator=generator(seed))
        folders.append(folder / f"adapter{seed}")
        adapter_files.save(adapted, folders[-1], config)
    return folders


def new_bank(model: MiniLLM, dtype: torch.dtype, folders: list[Path]) -> AdapterBank:
    bank = AdapterBank(
        model.config, dtype=dtype, device="cpu", max_rank=RANK, max_adapters=max(COUNTS)
    )
    for path in folders:
        bank.mount(path.name, path)
    return bank


def peft_model(peer: nn.Module, folders: list[Path]) -> nn.Module:
    wrapped = peft.PeftModel.from_pretrained(peer, str(folders[0]), adapter_name=folders[0].name)
    for path in folders[1:]:
        wrapped.load_adapter(str(path), adapter_name=path.name)
    return wrapped.eval()


def peft_generate(model: nn.Module, ids: torch.Tensor, names: list[str]) -> torch.Tensor:
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        adapter_names=names,
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=None,
        pad_token_id=0,
    )
    return out[:, ids.shape[1] :]


def compare(
    ours: Loaded, theirs: nn.Module, bank: AdapterBank, count: int, dtype: torch.dtype
) -> None:
    """Time the mixed batch of `count` adapters against its three rivals."""
    names = [f"adapter{row % count}" for row in range(BATCH)]
    ids = torch.tensor(
        [ours.tokenizer.encode(f"{PROMPT} number {row + 10}") for row in range(BATCH)]
    )

    def together() -> torch.Tensor:
        with mixed(ours.model, bank, names):
            return generate_ids(ours.model, ids, CONFIG)

    def switched() -> torch.Tensor:
        for name in dict.fromkeys(names):
            own = [row for row, other in enumerate(names) if other == name]
            with mixed(ours.model, bank, [name] * len(own)):
                found = generate_ids(ours.model, ids[own], CONFIG)
        return found

    rivals: dict[str, Run] = {
        "base": lambda: generate_ids(ours.model, ids, CONFIG),
        "peft": lambda: peft_generate(theirs, ids, names),
        "switching": switched,
    }
    checked = NEW_TOKENS if dtype == torch.float32 else 1
    with torch.inference_mode():
        if not torch.equal(together()[:, :checked], rivals["peft"]()[:, :checked]):
            raise SystemExit(f"{count} adapters, {dtype}: tokens differ, nothing recorded")
        timings = interleave({OURS: together, **rivals}, ROUNDS)
    for name in rivals:
        pair = {OURS: timings[OURS], PEER: timings[name]}
        extra = {
            "model": "smollm2-135m",
            "setting": f"{str(dtype).removeprefix('torch.')}, batch {BATCH}, {count} adapters",
            "dtype": str(dtype),
            "batch_size": BATCH,
            "adapters": count,
            "rank": RANK,
            "new_tokens": NEW_TOKENS,
            "peer": {"base": "labkit without adapters", "peft": "peft's mixed batch"}.get(
                name, "labkit, one adapter at a time"
            ),
            "gate": f"the first {checked} tokens of every row equal peft's",
        }
        work = BATCH * NEW_TOKENS
        record = write_ratio("mixed_adapters", pair, work, "tok/s", extra, module="adapters")
        print(f"{extra['setting']} / {name}: {record.value} ± {record.spread}, {extra['peer']}")


def time_plans(bank: AdapterBank, count: int, dtype: torch.dtype) -> None:
    """Record what all deltas of one step take, by plan, decoding and prefill."""
    config = bank.config
    widths = shapes(config)
    for kind, N in STEPS.items():
        slots = (torch.arange(N) * count // N) + 1  # as an engine lays them: one adapter's together
        work = [
            (
                torch.randn(N, sum(widths[target].outputs for target in group)).to(dtype),
                torch.randn(N, widths[group[0]].inputs).to(dtype),
                group,
            )
            for group in groups(config)
        ]

        def step(plan: str, slots: torch.Tensor = slots, work: list = work) -> None:
            grouping = bank.group(slots, plan=plan)
            for layer in range(config.num_layers):
                for y, x, group in work:
                    bank.add_fused(y, x, layer, group, grouping)

        with torch.inference_mode():
            timings = interleave({plan: lambda plan=plan: step(plan) for plan in PLANS}, ROUNDS)
        milliseconds = {plan: round(t.median_s * 1e3, 2) for plan, t in timings.items()}
        record = Record(
            metric="adapter_deltas",
            value=milliseconds["auto"],
            unit="ms a step",
            spread=round((max(timings["auto"].samples_s) - timings["auto"].min_s) * 500, 2),
            command="python -m benchmarks.adapters",
            extra={"kind": kind, "rows": N, "adapters": count, "dtype": str(dtype),
                   "rank": RANK, "plans_ms": milliseconds},
        )  # fmt: skip
        append_record(RESULTS / "adapters.jsonl", record)
        print(f"{dtype}, {kind} of {N} rows, {count} adapters: {milliseconds} ms")


def main() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        with same_model(dtype) as (ours, peer), tempfile.TemporaryDirectory() as folder:
            folders = make_adapters(ours.model, Path(folder))
            bank = new_bank(ours.model, dtype, folders)
            theirs = peft_model(peer, folders)
            for count in COUNTS:
                compare(ours, theirs, bank, count, dtype)
                time_plans(bank, count, dtype)


if __name__ == "__main__":
    main()
