"""Each switch of our engine alone: speed and divergence of its executors, bytes over bandwidth."""

import statistics
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks import texts
from benchmarks.contenders import COURSE
from benchmarks.engines.worker import Worker
from benchmarks.quality import GATE_NATS, divergence
from labkit.runtime.records import Record, append_record

BATCHES = (1, 32)
STEPS = {1: 24, 32: 6}
REFERENCE = "torch float32"
COMMAND = "python -m benchmarks.inference --only switches"


def run(
    ids: list[int], path: Path, *, rounds: int, model: str, threads: int, held: tuple[int, int]
) -> None:
    """Measure all variants in turn; a record for each and batch, and for fused projections.

    `held` is the number of held-out texts and the tokens of each.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "switches.log"
        settings = {"model": model}
        worker = Worker("switches", settings, python=COURSE, threads=threads, log=log)
        with closing(worker):
            variants = worker.ask("variants")
            quality = _quality(worker, variants, texts.rows(ids, *held), Path(folder))
            _write_steps(worker, variants, quality, path, rounds)
            _write_projections(worker, path, rounds)


def _quality(
    worker: Worker, variants: list[str], held: list[list[int]], folder: Path
) -> dict[str, tuple[float, float]]:
    """Divergence of each variant; `benchmarks.inference` checks that decoding has the same."""
    reference, other = folder / "reference.npy", folder / "other.npy"
    worker.ask("logits", variant=REFERENCE, texts=held, path=str(reference), batch=0)
    found = {}
    for variant in variants:
        worker.ask("logits", variant=variant, texts=held, path=str(other), batch=0)
        found[variant] = divergence(reference, other)
    return found


def _write_steps(
    worker: Worker,
    variants: list[str],
    quality: dict[str, tuple[float, float]],
    path: Path,
    rounds: int,
) -> None:
    bandwidths = [worker.ask("bandwidth")]
    for batch in BATCHES:
        seconds: dict[str, list[float]] = {variant: [] for variant in variants}
        for variant in variants:
            worker.ask("step", variant=variant, batch=batch, steps=2)
        for _ in range(rounds):
            bandwidths.append(worker.ask("bandwidth"))
            for variant, samples in seconds.items():
                few = max(1, STEPS[batch] // (4 if variant.startswith("torch") else 1))
                samples.append(worker.ask("step", variant=variant, batch=batch, steps=few))
        for variant, samples in seconds.items():
            kl, same = quality[variant]
            extra = {"switch": variant, "batch": batch, "kl_nats": round(kl, 5)}
            extra |= {"top1": round(same, 4), "passed": kl <= GATE_NATS}
            extra["gate"] = f"KL ≤ {GATE_NATS} nats a token"
            step_bytes = worker.ask("step_bytes", variant=variant)
            if step_bytes and batch == 1:
                extra |= _bandwidth(step_bytes, samples, bandwidths)
            _write(path, "inference_switch", [batch / s for s in samples], "tok/s", extra)


def _bandwidth(step_bytes: int, samples: list[float], read: list[float]) -> dict[str, Any]:
    """What a token reads, and its share of what memory gives the same threads."""
    speed = statistics.median(read)
    return {
        "bytes_a_token": step_bytes,
        "bandwidth_gb_s": round(speed / 1e9, 2),
        "share_of_bandwidth": round(step_bytes / statistics.median(samples) / speed, 3),
    }


def _write_projections(worker: Worker, path: Path, rounds: int) -> None:
    """Fused projections alone: Q, K and V as one matrix, gate and up as another."""
    for bits in (16, 8):
        worker.ask("projections", bits=bits, calls=200)
        found = [worker.ask("projections", bits=bits, calls=200) for _ in range(rounds)]
        ratios = [times["alone"] / times["fused"] for times in found]
        extra = {"switch": f"fused projections, {bits} bits", "batch": 1, "passed": True}
        extra["gate"] = "the same sums"
        extra["fused_us"] = round(1e6 * statistics.median(times["fused"] for times in found), 2)
        _write(path, "inference_switch", ratios, "times separate ones", extra)


def _write(path: Path, metric: str, values: list[float], unit: str, extra: dict[str, Any]) -> None:
    record = Record(
        metric=metric,
        value=float(f"{statistics.median(values):.4g}"),
        unit=unit,
        spread=float(f"{(max(values) - min(values)) / 2:.2g}"),
        command=COMMAND,
        extra=extra | {"setting": f"{extra['switch']}, batch {extra['batch']}"},
    )
    append_record(path, record)
    shown = {k: extra[k] for k in ("kl_nats", "top1", "share_of_bandwidth") if k in extra}
    print(f"{record.extra['setting']}: {record.value} ± {record.spread} {unit} {shown}")
