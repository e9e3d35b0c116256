"""The inference benchmark's harness: its workers, its gate, its ratios; nothing is timed here."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats

from benchmarks import inference, inference_records, inference_report, switches, texts
from benchmarks.contenders import ALL, COURSE, REFERENCE, Contender
from benchmarks.engines.run_loop import run_load, run_padded, run_together
from benchmarks.engines.worker import Worker, WorkerError
from benchmarks.inference_records import Goal, Measured
from benchmarks.quality import divergence
from labkit.inference.native.build import NoKernelsError, library
from labkit.runtime.records import load_records

SIZES = inference.Sizes(
    prompt=6,
    long_prompt=20,
    new_tokens=4,
    requests=5,
    load_prompt=(2, 9),
    load_answer=(1, 6),
    texts=(2, 20),
    stepped=6,
)


class OneByOne:
    """Serves its requests in turn, a token a step; the token is the request's own number."""

    def __init__(self) -> None:
        self.left: list[list[int]] = []
        self.added = 0

    def add(self, prompt: list[int], new_tokens: int) -> int:
        self.added += 1
        self.left.append([self.added - 1, new_tokens])
        return self.added - 1

    def step(self) -> list[tuple[int, int]]:
        key = self.left[0][0]
        self.left[0][1] -= 1
        self.left = [row for row in self.left if row[1]]
        return [(key, key)]


def chosen(*names: str) -> list[Contender]:
    return [contender for contender in ALL if contender.name in names]


def test_tokens_before_everybodys_first_are_not_counted_as_decoded() -> None:
    done = run_together(OneByOne(), [[1], [1, 2], [3]], 4)
    assert done["tokens"] == [[0] * 4, [1] * 4, [2] * 4]
    assert done["decode_tokens"] == 3  # the last row's, after its first
    assert 0 < done["first_s"] < done["total_s"]


def test_under_load_every_request_ends_after_its_arrival_and_its_first_token() -> None:
    requests = [{"prompt": [1], "new_tokens": n, "at": 0.001 * n} for n in (1, 3, 2)]
    requests.sort(key=lambda request: request["at"])
    done = run_load(OneByOne(), requests)
    for request, first, end in zip(requests, done["first"], done["end"], strict=True):
        assert request["at"] <= first <= end
    assert done["end"] == sorted(done["end"])  # this engine serves in turn


def test_static_batches_hold_who_has_arrived_and_run_to_the_longest_answer() -> None:
    batches: list[tuple[int, int]] = []
    requests = [{"prompt": [1], "new_tokens": n, "at": 0.0} for n in (1, 5, 2, 4, 3)]
    done = run_padded(lambda rows, n: batches.append((len(rows), n)), requests, 2)
    assert batches == [(2, 5), (2, 4), (1, 3)]
    assert done["end"][0] == done["end"][1] <= done["end"][2]


def test_a_load_arrives_in_order_with_lengths_inside_its_bounds() -> None:
    load = texts.poisson_load(
        list(range(500)), count=400, rate=20.0, prompt=(4, 64), answer=(2, 32), seed=3
    )
    at = [request["at"] for request in load]
    assert at == sorted(at)
    assert scipy.stats.kstest(np.diff(at), "expon", args=(0, 1 / 20)).pvalue > 1e-3
    assert {4 <= len(request["prompt"]) <= 64 for request in load} == {True}
    assert {2 <= request["new_tokens"] <= 32 for request in load} == {True}
    assert len({len(request["prompt"]) for request in load}) > 20


def test_divergence_is_scipys(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    p, q = (rng.normal(size=(300, 11)).astype(np.float32) * 3 for _ in range(2))
    np.save(tmp_path / "p.npy", p)
    np.save(tmp_path / "q.npy", q[:270])
    kl, same = divergence(tmp_path / "p.npy", tmp_path / "q.npy")
    expected = scipy.stats.entropy(
        scipy.special.softmax(p[:270].astype(np.float64), 1),
        scipy.special.softmax(q[:270].astype(np.float64), 1),
        axis=1,
    )
    assert kl == pytest.approx(expected.mean(), rel=1e-5)  # float32 logarithms
    assert same == np.mean(p[:270].argmax(1) == q[:270].argmax(1))


def test_ratios_are_taken_round_by_round_against_the_best_peer() -> None:
    measured = Measured()
    for engine, values in {"a": (4, 9, 4), "slow": (1, 1, 1), "fast": (2, 3, 4)}.items():
        for value in values:
            measured.add("decode", 1, engine, value)
            measured.add("first token", 1, engine, value)
    goal = Goal(ours="a", peers=("slow", "fast", "absent"), measure="decode", batch=1, least=1)
    assert measured.ratios(goal) == ("fast", [2, 3, 1])
    less = Goal(ours="a", peers=("slow", "fast"), measure="first token", batch=1, least=1)
    assert measured.ratios(less) == ("slow", [1 / 4, 1 / 9, 1 / 4])
    unknown = Goal(ours="a", peers=("absent",), measure="decode", batch=1, least=1)
    assert measured.ratios(unknown) is None


@pytest.mark.parametrize(
    ("kl", "stepped", "passed"), [(0.04, 0.0, True), (0.06, 0.0, False), (0.04, 0.01, False)]
)
def test_a_gate_holds_prefill_to_the_reference_and_decoding_to_prefill(
    kl: float, stepped: float, passed: bool
) -> None:
    measured = Measured()
    measured.quality["e"], measured.stepped["e", 8] = (kl, 0.9), stepped
    assert measured.gate("e, padded", "decode", 8)["passed"] is passed
    assert measured.gate("e", "prefill", 1)["passed"] is (kl < 0.05)
    assert measured.gate("another", "decode", 8)["passed"] is None


def test_goals_name_engines_that_there_are() -> None:
    names = {contender.name for contender in ALL} | {"BatchDecoder bfloat16"}
    for goal in inference_records.goals():
        assert {goal.ours, *(peer.partition(", padded")[0] for peer in goal.peers)} <= names


def test_the_report_shows_the_newest_record_and_strikes_out_failed_gates(tmp_path: Path) -> None:
    path = tmp_path / "inference.jsonl"
    assert inference_report.tables(path) == ""
    ratio = "| labkit int8 | llama.cpp Q8_0 | decode, batch 8 |"
    for value, kl, row in (
        (5.0, 0.01, f"{ratio} 1 ± 0 | 1.3 | **no** |"),
        (8.0, 0.01, f"{ratio} 1.6 ± 0 | 1.3 | yes |"),
        (7.0, 0.06, f"{ratio} ~~1.4 ± 0~~ | 1.3 | **no** |"),
    ):
        measured = Measured()
        measured.quality["labkit int8"] = (kl, 0.9)
        measured.add("decode", 8, "labkit int8", value)
        measured.add("decode", 8, "llama.cpp Q8_0", 5.0)
        inference_records.write_all(measured, path, threads=1)
        assert row in inference_report.tables(path).splitlines()
    assert "| labkit int8 |  |  |  | ~~7 ± 0~~ |  | 0.06 |" in inference_report.tables(path)


def test_an_engines_error_comes_back_with_its_traceback(tmp_path: Path) -> None:
    worker = Worker(
        "ours",
        {"model": "mini", "weights": "model"},
        python=COURSE,
        threads=1,
        log=tmp_path / "ours.log",
    )
    with closing(worker):
        with pytest.raises(WorkerError, match=r"(?s)Traceback.*the prompt is empty"):
            worker.ask("generate", prompts=[[]], new_tokens=3)
        assert worker.ask("generate", prompts=[[5]], new_tokens=3)["decode_tokens"] == 2


def test_an_engine_that_ends_is_an_error_too(tmp_path: Path) -> None:
    worker = Worker("ours", {}, python=COURSE, threads=1, log=tmp_path / "ours.log")
    with closing(worker), pytest.raises(WorkerError, match=r"(?s)it ended:.*TypeError"):
        worker.ask("ready")


def test_the_whole_run_writes_a_record_of_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "held_out", lambda tokenizer: tokenizer.encode("A list. " * 99))
    names = ["labkit float32", "transformers bfloat16", REFERENCE]
    path = tmp_path / "records.jsonl"
    measured = inference.run(
        chosen(*names),
        parts=("speed",),
        rounds=2,
        model="mini",
        sizes=SIZES,
        results=path,
        threads=1,
    )
    assert measured.quality["labkit float32"][0] < 1e-6  # float32 rounding in another order
    rows = {(r.extra["engine"], r.extra["setting"]): r for r in load_records(path)}
    tasks = [("prefill", 1), ("first token", 1)]
    tasks += [(name, batch) for name in ("decode", "whole") for batch in inference.BATCHES]
    assert set(rows) == {
        (name, f"{task}, batch {batch}") for name in names for task, batch in tasks
    }
    for (engine, _), row in rows.items():
        assert row.value > 0
        assert row.extra["passed"] is True
        assert row.extra["rounds"] == (2 if "bfloat16" in engine else 1)


def test_native_engines_serve_a_load_and_are_measured_switch_by_switch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        library()
    except NoKernelsError as reason:
        pytest.skip(f"no native kernels: {reason}")
    monkeypatch.setattr(texts, "held_out", lambda tokenizer: tokenizer.encode("A list. " * 99))
    path = tmp_path / "records.jsonl"
    arguments: dict[str, Any] = {"rounds": 1, "model": "mini", "sizes": SIZES, "threads": 1}
    some = chosen("labkit bfloat16", REFERENCE)
    inference.run(some, parts=("load", "switches"), results=path, **arguments)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    loads = {row["extra"]["engine"] for row in rows if row["metric"] == "inference"}
    assert loads == {"labkit bfloat16", "labkit bfloat16, padded", "BatchDecoder bfloat16"}
    found = {row["extra"]["switch"] for row in rows if row["metric"] == "inference_switch"}
    assert found > {"torch float32", "bfloat16", "int8, all", "int8, but qkv"}
    assert any("share_of_bandwidth" in row["extra"] for row in rows)
    assert switches.REFERENCE in found
