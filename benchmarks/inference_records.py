"""What `benchmarks.inference` measured, as records: rates, their gates, ratios against goals."""

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.quality import GATE_NATS
from labkit.runtime.records import Record, append_record

COMMAND = "python -m benchmarks.inference"
UNITS = {
    "prefill": "tok/s",
    "first token": "ms",
    "decode": "tok/s",
    "whole": "tok/s",
    "load": "tok/s",
    "load latency": "s",
}
LESS_IS_BETTER = ("first token", "load latency")
OF_PROMPTS = ("prefill", "first token")
SAME_STEPS = ("BatchDecoder", "transformers")  # both run PyTorch's operations in bfloat16
SAME_NATS = 1e-3  # most that an engine's decoding may lie from its own prefill


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """How many times the best of the peers ours should be."""

    ours: str
    peers: tuple[str, ...]
    measure: str
    batch: int
    least: float


def goals() -> list[Goal]:
    vllm = ("vLLM bfloat16 eager", "vLLM bfloat16 compiled")
    llamacpp = ("llama.cpp Q4_1", "llama.cpp Q8_0")
    bf16, int8, hf = "labkit bfloat16", "labkit int8", "transformers bfloat16"
    rows = [
        *((bf16, vllm, "decode", batch, least) for batch, least in ((1, 1.2), (8, 1.0), (32, 1.0))),
        *((int8, vllm, "decode", batch, least) for batch, least in ((1, 2.5), (8, 1.5), (32, 1.5))),
        *((int8, llamacpp, "decode", batch, 1.3) for batch in (1, 8, 32)),
        *((bf16, vllm, measure, 1, 1.0) for measure in ("prefill", "first token")),
        *((int8, llamacpp, measure, 1, 1.0) for measure in ("prefill", "first token")),
        *((name, vllm, "load", 32, 1.0) for name in (bf16, int8)),
        *((name, (f"{name}, padded",), "load", 32, 2.0) for name in (bf16, int8)),
        *((bf16, (peer,), "load", 32, 2.0) for peer in (hf, "BatchDecoder bfloat16")),
        *((bf16, (hf,), "decode", batch, 1.0) for batch in (1, 8, 32)),
    ]  # fmt: skip
    return [
        Goal(ours=ours, peers=peers, measure=measure, batch=batch, least=least)
        for ours, peers, measure, batch, least in rows
    ]


@dataclass(slots=True)
class Measured:
    """Samples of each measure, batch and engine, one a round; quality of each engine.

    Attributes:
        samples: (measure, batch) to engine to values.
        quality: engine to KL in nats from the reference and the share of equal argmax.
        stepped: (engine, batch) to KL in nats of its decoding from its own prefill.
    """

    samples: dict[tuple[str, int], dict[str, list[float]]] = field(default_factory=dict)
    quality: dict[str, tuple[float, float]] = field(default_factory=dict)
    stepped: dict[tuple[str, int], float] = field(default_factory=dict)

    def add(self, measure: str, batch: int, engine: str, value: float) -> None:
        self.samples.setdefault((measure, batch), {}).setdefault(engine, []).append(value)

    def gate(self, engine: str, measure: str, batch: int) -> dict[str, Any]:
        """KL and agreement; passed, if the KL is small and decoding is as prefill is."""
        served = engine.partition(",")[0].replace(*SAME_STEPS)
        if served not in self.quality:
            return {"gate": "not taken", "passed": None}
        kl, same = self.quality[served]
        stepped = 0.0 if measure in OF_PROMPTS else self.stepped.get((served, batch))
        return {
            "kl_nats": round(kl, 5),
            "top1": round(same, 4),
            "decoding_kl_nats": None if stepped is None else float(f"{stepped:.2g}"),
            "gate": f"KL ≤ {GATE_NATS} nats a token",
            "passed": kl <= GATE_NATS and (stepped or 0.0) <= SAME_NATS,
        }

    def ratios(self, goal: Goal) -> tuple[str, list[float]] | None:
        """The peer with the best median, and round by round how many times it ours is."""
        found = self.samples.get((goal.measure, goal.batch), {})
        peers = [peer for peer in goal.peers if peer in found]
        if goal.ours not in found or not peers:
            return None
        less = goal.measure in LESS_IS_BETTER
        best = (min if less else max)(peers, key=lambda peer: statistics.median(found[peer]))
        pairs = zip(found[goal.ours], found[best], strict=False)
        return best, [theirs / ours if less else ours / theirs for ours, theirs in pairs]


def write_all(
    measured: Measured,
    path: Path,
    *,
    threads: int,
) -> None:
    """A record for each measure and engine, and one for each goal."""
    about = {"engine_threads": threads}
    for (measure, batch), engines in measured.samples.items():
        for engine, values in engines.items():
            gate = measured.gate(engine, measure, batch)
            extra = {"engine": engine, "measure": measure, "batch": batch, **gate, **about}
            _write(path, "inference", values, UNITS[measure], extra)
    for goal in goals():
        found = measured.ratios(goal)
        if found is not None:
            best, ratios = found
            extra = {"engine": goal.ours, "peer": best, "measure": goal.measure}
            extra |= {"batch": goal.batch, "goal": goal.least, **about}
            extra["met"] = statistics.median(ratios) >= goal.least
            extra |= measured.gate(goal.ours, goal.measure, goal.batch)
            _write(path, "inference_ratio", ratios, "times the peer", extra)


def _write(path: Path, metric: str, values: list[float], unit: str, extra: dict[str, Any]) -> None:
    """Append a record of the median and half the range, and print it."""
    record = Record(
        metric=metric,
        value=float(f"{statistics.median(values):.4g}"),
        unit=unit,
        spread=float(f"{(max(values) - min(values)) / 2:.2g}"),
        command=COMMAND,
        extra=extra | {"setting": _setting(extra), "rounds": len(values)},
    )
    append_record(path, record)
    words = [str(extra[name]) for name in ("engine", "peer") if name in extra]
    gate = {True: "", False: ", gate failed", None: ", gate not taken"}[extra["passed"]]
    print(f"{' / '.join(words)}, {_setting(extra)}: {record.value} ± {record.spread} {unit}{gate}")


def _setting(extra: dict[str, Any]) -> str:
    return f"{extra['measure']}, batch {extra['batch']}"
