"""Greedy decoding of SmolLM2 by the engines of lecture inference/02, with a gate beside each rate.

Run on an idle machine, after `make vllm llamacpp mnn`: python -m benchmarks.landscape. An engine
whose environment is missing is left out, and said to be. Lecture inference/02 reads the records.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import texts
from benchmarks.contenders import ALL, REFERENCE, Contender, started
from benchmarks.engines.worker import ROOT, Worker
from benchmarks.quality import GATE_NATS, divergence
from labkit.model import huggingface, zoo
from labkit.runtime.records import Record, append_record

RECORDS = ROOT / "datasets" / "inference_landscape" / "records.jsonl"
MNN = ROOT / ".venv-mnn" / "bin" / "python"
BATCHES = (1, 8)
PROMPT, NEW_TOKENS, TEXTS = 32, 48, (8, 64)


def mnn(bits: int, folder: Path) -> Contender:
    """MNN-LLM on weights of some bits, exported to a folder."""
    return Contender(
        name=f"MNN {bits} bits",
        family="MNN",
        module="mnn_llm",
        settings={"model": str(folder / f"mnn{bits}"), "threads": "THREADS"},
        python=MNN,
        serves=False,
    )


def export_mnn(contenders: Sequence[Contender], folder: Path) -> None:
    """Write the files that MNN's workers load."""
    loaded = zoo.load(zoo.SMOLLM2, dtype="bfloat16", device="cpu")
    huggingface.save_folder(loaded.model, loaded.tokenizer, folder / "source")
    for contender in contenders:
        bits = contender.name.split()[1]
        command = [MNN, "-m", "benchmarks.engines.mnn_llm", "export", folder / "source"]
        subprocess.run(
            [*map(str, command), contender.settings["model"], bits],
            cwd=folder,  # where the exporter leaves its log
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
        )


def quality(
    workers: dict[str, Worker], ids: list[int], size: tuple[int, int]
) -> dict[str, tuple[float, float]]:
    """Each engine's KL from the reference in nats, and how often both like the same token best."""
    held = texts.rows(ids, *size)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        reference, other = Path(name) / "reference.npy", Path(name) / "other.npy"
        workers[REFERENCE].ask("logits", texts=held, path=str(reference), batch=0)
        for engine, worker in workers.items():
            worker.ask("logits", texts=held, path=str(other), batch=0)
            found[engine] = divergence(reference, other)
    return found


def rates(
    workers: dict[str, Worker], ids: list[int], batch: int, rounds: int, new_tokens: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Tokens a second of each engine, round by round, and how far its tokens are the reference's.

    Every round asks all engines in turn. The second value is the mean number of leading tokens of a
    row that equal the reference's.
    """
    prompts = texts.rows(ids, batch, PROMPT)
    samples: dict[str, list[float]] = {name: [] for name in workers}
    tokens = {}
    for worker in workers.values():
        worker.ask("generate", prompts=prompts, new_tokens=4)
    for _ in range(rounds):
        for name, worker in workers.items():
            done = worker.ask("generate", prompts=prompts, new_tokens=new_tokens)
            samples[name].append(done["decode_tokens"] / (done["total_s"] - done["first_s"]))
            tokens[name] = done["tokens"]
    agreed = {name: agreement(rows, tokens[REFERENCE]) for name, rows in tokens.items()}
    return samples, agreed


def agreement(rows: list[list[int]], reference: list[list[int]]) -> float:
    def leading(row: list[int], other: list[int]) -> int:
        equal = [a == b for a, b in zip(row, other, strict=True)]
        return equal.index(False) if False in equal else len(row)

    return statistics.mean(map(leading, rows, reference))


def record(
    contender: Contender,
    batch: int,
    samples: list[float],
    facts: dict[str, Any],
) -> Record:
    """The median rate; half the range is its spread."""
    return Record(
        metric="decode",
        value=round(statistics.median(samples), 1),
        unit="tok/s",
        spread=round((max(samples) - min(samples)) / 2, 1),
        command="python -m benchmarks.landscape",
        extra={
            "model": zoo.SMOLLM2,
            "engine": contender.name,
            "family": contender.family,
            "batch": batch,
            "rounds": len(samples),
            **facts,
        },
    )


def run(
    contenders: Sequence[Contender],
    *,
    rounds: int,
    threads: int,
    path: Path,
    new_tokens: int = NEW_TOKENS,
    size: tuple[int, int] = TEXTS,
) -> None:
    """Measure, and write the records anew."""
    ids = texts.held_out(zoo.load(zoo.SMOLLM2, device="cpu").tokenizer)
    with started(contenders, zoo.SMOLLM2, threads) as workers:
        versions = {name: worker.ask("ready")["version"] for name, worker in workers.items()}
        gates = quality(workers, ids, size)
        rows = []
        for batch in BATCHES:
            able = {c.name: workers[c.name] for c in contenders if batch == 1 or c.family != "MNN"}
            samples, agreed = rates(able, ids, batch, rounds, new_tokens)
            for contender in contenders:
                if contender.name not in able:
                    continue
                kl, same = gates[contender.name]
                facts = {
                    "version": versions[contender.name],
                    "engine_threads": threads,
                    "new_tokens": new_tokens,
                    "kl_nats": round(kl, 5),
                    "top1": round(same, 4),
                    "agreed_tokens": agreed[contender.name],
                    "passed": kl <= GATE_NATS,
                }
                rows.append(record(contender, batch, samples[contender.name], facts))
    path.unlink(missing_ok=True)
    for row in rows:
        append_record(path, row)
        print(row.extra["engine"], row.extra["batch"], row.value, row.unit, row.extra["kl_nats"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", default="", help="beginnings of names, as vLLM,labkit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--records", type=Path, default=RECORDS)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        wanted = tuple(options.engines.split(","))
        every = [*ALL, mnn(8, folder), mnn(4, folder)]
        chosen = [c for c in every if c.name.startswith(wanted) or c.name == REFERENCE]
        missing = [c for c in chosen if not c.python.exists()]
        for contender in missing:
            print(f"left out: {contender.name}, whose environment is not there")
        present = [c for c in chosen if c not in missing]
        if Counter(c.family for c in present)["MNN"]:
            export_mnn([c for c in present if c.family == "MNN"], folder)
        run(present, rounds=options.rounds, threads=options.threads, path=options.records)


if __name__ == "__main__":
    main()
