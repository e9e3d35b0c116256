"""Training commands over several processes: same losses, one clear error, resumable."""

import json

import pytest

from labkit.cli import spreading
from labkit.training import loop, pretrain
from labkit.training.parallel import distributed, strategies

TRAIN = ["--steps", 4, "--lr", 2e-2, "--length", 120, "--dtype", "float32", "--json"]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def losses(text):
    return [json.loads(line)["loss_nats"] for line in text.splitlines()]


def test_the_names_are_those_that_can_be_built():
    assert ("none", *strategies.STRATEGIES) == spreading.STRATEGIES


@pytest.mark.parametrize(
    ("method", "strategy"),
    [("lora", "zero2"), ("qlora", "ddp"), ("lora", "fsdp2"), ("full", "tp"), ("full", "pp")],
)
def test_two_processes_print_and_write_what_one_does(
    run, long_folder, alpaca_file, tmp_path, method, strategy
):
    rank = [] if method == "full" else ["--rank", 3]
    common = ["train", long_folder, "--method", method, "--data", alpaca_file, *TRAIN, *rank]
    one, _ = run(*common, "--out", tmp_path / "one")
    spread = ["--strategy", strategy, "--nproc", 2, "--out", tmp_path / "two"]
    two, err = run(*common, *spread)
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert f"wrote {tmp_path / 'two'}" in err
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {path.name for path in (tmp_path / "two").iterdir()}


def test_a_run_goes_on_in_other_processes(run, long_folder, alpaca_file, tmp_path):
    common = ["train", long_folder, "--data", alpaca_file, *TRAIN]
    whole, _ = run(*common, "--out", tmp_path / "whole")
    kept = ["--checkpoint", tmp_path / "kept"]
    run(*common, *kept, "--out", tmp_path / "first", "--strategy", "zero3", "--nproc", 2)
    again, _ = run(*common, *kept, "--resume", "--out", tmp_path / "again")
    assert again == ""  # all steps were done
    assert len(losses(whole)) == 4
    first, second = (tmp_path / name / "adapter_config.json" for name in ("first", "again"))
    assert json.loads(first.read_text()) == json.loads(second.read_text())


def test_pretraining_is_given_the_same_choice(run, refused, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(pretrain, "run", lambda *_, **options: calls.append(options) or iter(()))
    common = ["pretrain", "--preset", "smoke", "--out", tmp_path / "made"]
    run(*common)
    run(*common, "--strategy", "zero3", "--nproc", 2, "--resume")
    assert (calls[0]["train"], calls[0]["device"]) == (loop.train, "auto")
    spread = calls[1]["train"]
    assert (spread.func, spread.keywords) == (
        distributed.train, {"strategy": "zero3", "nproc": 2},
    )  # fmt: skip
    assert (calls[1]["device"], calls[1]["resume"]) == ("cpu", True)
    assert "needs nproc" in refused(*common, "--strategy", "zero3")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nproc", 2], "nproc=2 needs a strategy"),
        (["--strategy", "zero2"], "strategy='zero2' needs nproc of at least 2, not 1"),
        (["--strategy", "zero4", "--nproc", 2], "strategy='zero4' is unknown: use one of 'none'"),
        (["--strategy", "ddp", "--nproc", 2, "--device", "cuda"], "device='cuda' must be cpu"),
        (["--strategy", "tp", "--nproc", 2], "method='lora' keeps whole"),
        (["--resume"], "need checkpoint"),
        (["--strategy", "pp", "--nproc", 9, "--method", "full"], "pipeline=9 exceeds num_layers"),
    ],
)
def test_contradictions_are_one_sentence(
    refused, long_folder, alpaca_file, tmp_path, options, message
):
    common = ["train", long_folder, "--data", alpaca_file, "--out", tmp_path / "made"]
    assert message in refused(*common, "--length", 120, *options)
    assert not (tmp_path / "made").exists()
