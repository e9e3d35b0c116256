"""labkit's engine against transformers, vLLM and llama.cpp on a CPU: SmolLM2, one prompt to 32.

Every engine is a process of its own and stays loaded; in each round all of them do the same task
in turn, on the same tokens, greedily, to the same length. Prefix caches are off.

- prefill: a prompt of 512 tokens, until its first token; first token: the same for 32 tokens.
- decode: 64 tokens for each of 1, 8 and 32 prompts of 32 tokens; from the moment at which all have
  their first token ("decode"), and from the start ("whole").
- load: requests of ragged lengths that arrive as a Poisson process, faster than they are served;
  the tokens of all answers over the time until the last. transformers, BatchDecoder and "padded"
  (our own engine, used so) serve them in static batches.
- switches: each switch of our engine alone, and its share of the memory's bandwidth.

Quality gate: the mean KL divergence from the same weights in float32, on held-out text, through the
very steps that are timed, is at most 0.05 nats a token. A speed whose gate fails is recorded so.

Run on an idle machine: python -m benchmarks.inference
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import switches, texts
from benchmarks.contenders import ALL, REFERENCE, Contender, started
from benchmarks.engines.worker import Worker
from benchmarks.inference_records import Measured, write_all
from benchmarks.peers import RESULTS
from benchmarks.quality import divergence
from labkit.model import zoo

PARTS = ("speed", "load", "switches")
BATCHES = (1, 8, 32)
LOAD_RATE, LOAD_BATCH = 32.0, 32
PADDED = {"padded_load": "padded", "padded_decoder": "BatchDecoder"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How much each task does; the test of this file makes them small.

    Attributes:
        prompt: Tokens of a prompt to decode from.
        long_prompt: Tokens of a prompt to prefill.
        new_tokens: Of each decoded row.
        requests: Of the load.
        load_prompt: Shortest and longest prompt of the load, in tokens.
        load_answer: Shortest and longest answer of the load, in tokens.
        texts: Held-out texts whose tokens' divergence is taken, and tokens of each.
        stepped: Tokens of each text that is also decoded, one a step.
    """

    prompt: int = 32
    long_prompt: int = 512
    new_tokens: int = 64
    requests: int = 32
    load_prompt: tuple[int, int] = (16, 256)
    load_answer: tuple[int, int] = (4, 128)
    texts: tuple[int, int] = (24, 128)
    stepped: int = 32


def measure_quality(
    measured: Measured, workers: dict[str, Worker], ids: list[int], sizes: Sizes
) -> None:
    """Every engine's divergence from the reference as prompts run, and of its decoding from that.

    Engines that can be fed given tokens one a step are, at each batch size; four texts do alone,
    since only rounding in another order can lie between an engine's two ways.
    """
    held, short = texts.rows(ids, *sizes.texts), texts.rows(ids, BATCHES[-1], sizes.stepped)
    with tempfile.TemporaryDirectory() as name:
        reference, other = Path(name) / "reference.npy", Path(name) / "other.npy"

        def save(engine: str, path: Path, rows: list[list[int]], batch: int) -> None:
            workers[engine].ask("logits", texts=rows, path=str(path), batch=batch)

        save(REFERENCE, reference, held, 0)
        for engine in workers:
            save(engine, other, held, 0)
            measured.quality[engine] = divergence(reference, other)
        for contender in ALL:
            if contender.stepped and (engine := contender.name) in workers:
                save(engine, reference, short, 0)
                for batch in BATCHES:
                    save(engine, other, short[: max(4, batch)], batch)
                    measured.stepped[engine, batch], _ = divergence(reference, other)


def measure_speed(
    measured: Measured,
    workers: dict[str, Worker],
    ids: list[int],
    sizes: Sizes,
    rounds: int,
) -> None:
    """Prefill, first token and decoding, every engine in turn in each round."""
    tasks = [("prefill", 1, sizes.long_prompt, 1), ("first token", 1, sizes.prompt, 1)]
    tasks += [("decode", batch, sizes.prompt, sizes.new_tokens) for batch in BATCHES]
    once = {c.name: c.once_from for c in ALL if c.once_from is not None}
    for task, batch, length, new_tokens in tasks:
        prompts = texts.rows(ids, batch, length)
        for worker in workers.values():
            worker.ask("generate", prompts=prompts, new_tokens=min(new_tokens, 4))
        for number in range(rounds):
            for engine, worker in workers.items():
                if number and batch >= once.get(engine, batch + 1):
                    continue
                done = worker.ask("generate", prompts=prompts, new_tokens=new_tokens)
                for name, value in _speeds(task, batch, length, new_tokens, done).items():
                    measured.add(name, batch, engine, value)


def _speeds(
    task: str, batch: int, length: int, new_tokens: int, done: dict[str, Any]
) -> dict[str, float]:
    if task == "prefill":
        return {task: batch * length / done["first_s"]}
    if task == "first token":
        return {task: 1000 * done["first_s"]}
    return {
        "decode": done["decode_tokens"] / (done["total_s"] - done["first_s"]),
        "whole": batch * new_tokens / done["total_s"],
    }


def measure_load(
    measured: Measured,
    workers: dict[str, Worker],
    ids: list[int],
    sizes: Sizes,
    rounds: int,
) -> None:
    """The same arrivals for every engine that serves, others in each round."""
    serving = _serving(workers)
    for seed in range(rounds):
        requests = texts.poisson_load(
            ids,
            count=sizes.requests,
            rate=LOAD_RATE,
            prompt=sizes.load_prompt,
            answer=sizes.load_answer,
            seed=seed,
        )
        useful = sum(request["new_tokens"] for request in requests)
        for name, (engine, task) in serving.items():
            done = workers[engine].ask(task, requests=requests, max_batch=LOAD_BATCH)
            waits = [end - r["at"] for end, r in zip(done["end"], requests, strict=True)]
            measured.add("load", LOAD_BATCH, name, useful / max(done["end"]))
            measured.add("load latency", LOAD_BATCH, name, sorted(waits)[len(waits) // 2])


def _serving(workers: dict[str, Worker]) -> dict[str, tuple[str, str]]:
    """Name of each way to serve the load: the engine, and the task it is asked for."""
    serving = {}
    for contender in ALL:
        if contender.name in workers and contender.serves:
            serving[contender.name] = (contender.name, "load")
            if contender.family == "labkit":
                serving[f"{contender.name}, padded"] = (contender.name, "padded_load")
    ours = [engine for engine, task in serving.values() if task == "padded_load"]
    if ours:
        serving["BatchDecoder bfloat16"] = (ours[0], "padded_decoder")
    return serving


def run(
    contenders: Sequence[Contender],
    *,
    parts: Sequence[str] = PARTS,
    rounds: int = 5,
    model: str = zoo.SMOLLM2,
    sizes: Sizes | None = None,
    results: Path = RESULTS / "inference.jsonl",
    threads: int | None = None,
) -> Measured:
    """Measure the parts, write their records and return them."""
    sizes = Sizes() if sizes is None else sizes
    threads = threads or os.cpu_count() or 1
    ids = texts.held_out(zoo.load(model, device="cpu").tokenizer)
    measured = Measured()
    if {"speed", "load"} & set(parts):
        with started(contenders, model, threads) as workers:
            measure_quality(measured, workers, ids, sizes)
            if "speed" in parts:
                measure_speed(measured, workers, ids, sizes, rounds)
            if "load" in parts:
                measure_load(measured, workers, ids, sizes, rounds)
        write_all(measured, results, threads=threads)
    if "switches" in parts:
        switches.run(ids, results, rounds=rounds, model=model, threads=threads, held=sizes.texts)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--engines", default="", help="beginnings of names, as vLLM,labkit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--results", type=Path, default=RESULTS / "inference.jsonl")
    options = parser.parse_args()
    parts, wanted = options.only.split(","), tuple(options.engines.split(","))
    chosen = [c for c in ALL if c.name.startswith(wanted) or c.name == REFERENCE]
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--only {','.join(unknown)}: expected some of {', '.join(PARTS)}")
    missing = {c.family for c in chosen if not c.python.exists()}
    if missing and parts != ["switches"]:
        parser.error(f"{' and '.join(missing)} not installed: scripts/*_env.py make environments")
    run(
        chosen,
        parts=parts,
        rounds=options.rounds,
        results=options.results,
        threads=options.threads,
    )


if __name__ == "__main__":
    main()
