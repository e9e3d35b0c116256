"""Every command at work on a small model: what it prints and what it writes is right."""

import json
import os
import socket
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
import torch

from labkit.inference import generate as g
from labkit.inference.sampling import SamplingConfig
from labkit.model import zoo
from labkit.tuning import adapter_files, lora


def load(folder):
    return zoo.load(str(folder), dtype="float32", device="cpu")


def test_generate_streams_what_generate_returns(run, byte_folder, byte_loaded):
    options = ["--temperature", 0.9, "--top-k", 20, "--seed", 4, "--max-new-tokens", 25]
    config = SamplingConfig(temperature=0.9, top_k=20, seed=4, max_new_tokens=25)
    expected = g.generate(byte_loaded.model, byte_loaded.tokenizer, ["Hi", "Yo"], config)
    out, _ = run("generate", byte_folder, "Hi", "--dtype", "float32", *options)
    assert out == expected[0].text + "\n"
    out, _ = run("generate", byte_folder, "Hi", "Yo", "--dtype", "float32", "--json", *options)
    assert [row["text"] for row in json.loads(out)] == [text.text for text in expected]
    out, _ = run("generate", byte_folder, "Hi", "--chat", "--json", "--dtype", "float32")
    assert json.loads(out)["prompt_tokens"] > 10


def test_generate_reads_stdin_and_stops(run, byte_folder, monkeypatch):
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi"))
    whole, _ = run("generate", byte_folder, "-", "--dtype", "float32", "--max-new-tokens", 9)
    again, _ = run("generate", byte_folder, "Hi", "--dtype", "float32", "--max-new-tokens", 9)
    assert whole == again


def test_generate_from_a_checkpoint(run, byte_folder, byte_loaded, alpaca_file, tmp_path):
    sampling = ["--temperature", 0.9, "--top-k", 20, "--top-p", 0.8, "--seed", 4]
    config = SamplingConfig(temperature=0.9, top_k=20, top_p=0.8, seed=4)
    options = [*sampling, "--dtype", "float32"]
    [expected] = g.generate(byte_loaded.model, byte_loaded.tokenizer, "Hi", config)
    assert run("generate", "--checkpoint", byte_folder, "--prompt", "Hi", *options)[0] == (
        expected.text + "\n"
    )
    assert run("generate", byte_folder, "--prompt", "Hi", *options)[0] == expected.text + "\n"
    run(
        "train", byte_folder, "--data", alpaca_file, "--out", tmp_path / "made", "--steps", 4,
        "--lr", 0.1, "--length", 120, "--dtype", "float32",
    )  # fmt: skip
    tuned, _ = run("generate", "--checkpoint", tmp_path / "made", "--prompt", "Hi", *options)
    put_on, _ = run("generate", byte_folder, "Hi", "--adapter", tmp_path / "made", *options)
    assert tuned == put_on != expected.text + "\n"


@pytest.mark.parametrize("method", ["lora", "qlora", "dora", "full"])
def test_train_lowers_the_loss_and_writes_what_loads(
    run, byte_folder, alpaca_file, tmp_path, method
):
    rank = () if method == "full" else ("--rank", 3)
    out, err = run(
        "train", byte_folder, "--method", method, "--data", alpaca_file, "--out", tmp_path / "made",
        "--steps", 12, "--lr", 2e-2, *rank, "--length", 120, "--log-every", 4, "--json",
        "--dtype", "float32",
    )  # fmt: skip
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["step"] for record in records] == list(range(1, 13))
    assert records[-1]["loss_nats"] < records[0]["loss_nats"] - 0.5
    assert "wrote" in err
    if method == "full":
        made = load(tmp_path / "made").model
        assert not torch.equal(made.lm_head.weight, load(byte_folder).model.lm_head.weight)
        return
    adapter = adapter_files.read(tmp_path / "made")
    assert (adapter.config.rank, adapter.config.alpha) == (3, 6.0)
    assert adapter.base_name == str(byte_folder)
    model = adapter_files.attach(load(byte_folder).model, adapter)
    assert all(layer.lora_B.weight.abs().sum() > 0 for layer in lora.layers(model).values())
    plain, _ = run("generate", byte_folder, "Say ab.", "--chat", "--dtype", "float32")
    tuned, _ = run(
        "generate", byte_folder, "Say ab.", "--chat", "--dtype", "float32",
        "--adapter", tmp_path / "made",
    )  # fmt: skip
    assert plain != tuned


@pytest.mark.parametrize("method", ["ia3", "prompt", "p-tuning", "p-tuning-v2", "prefix"])
def test_every_method_with_a_file_trains_and_loads(run, byte_folder, alpaca_file, tmp_path, method):
    out, _ = run(
        "train", byte_folder, "--method", method, "--data", alpaca_file, "--out", tmp_path / "made",
        "--steps", 12, "--length", 120, "--log-every", 1, "--json", "--dtype", "float32",
    )  # fmt: skip
    losses = [json.loads(line)["loss_nats"] for line in out.splitlines()]
    assert min(losses[-3:]) < losses[0]
    ids = torch.tensor([[1, 2, 3]])
    put_on = adapter_files.load(load(byte_folder).model, tmp_path / "made").eval()
    assert not torch.equal(put_on(ids), load(byte_folder).model.eval()(ids))
    tuned, _ = run(
        "generate", byte_folder, "Say ab.", "--chat", "--dtype", "float32",
        "--adapter", tmp_path / "made",
    )  # fmt: skip
    assert tuned


# MLflow's own modules use what SQLAlchemy, Alembic and Pydantic have deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_train_prints_a_table_and_tracks(run, byte_folder, alpaca_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, _ = run(
        "train", byte_folder, "--data", alpaca_file, "--out", "made", "--steps", 5, "--rank", 2,
        "--length", 120, "--log-every", 2, "--track", "--run-name", "mine",
    )  # fmt: skip
    lines = out.splitlines()
    assert lines[0].split() == ["step", "loss_nats", "tokens", "grad_norm", "lr"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "4", "5"]
    from labkit.training import tracking

    logged = tracking.curve("mine")
    assert len(logged) == 5
    assert float(lines[1].split()[1]) == pytest.approx(logged[0], rel=1e-3)


def test_train_on_the_python_documentation(run, byte_folder, tmp_path, small_documentation):
    out, err = run(
        "train", byte_folder, "--out", tmp_path / "made", "--steps", 2, "--rank", 2,
        "--length", 150, "--json",
    )  # fmt: skip
    assert len(out.splitlines()) == 2
    assert "exceed 150 tokens" in err


MEASURE = ["--length", 60, "--calibration-windows", 3, "--max-tokens", 500, "--window", 100]


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_quantize_writes_a_folder_on_the_grid(run, byte_folder, text_file, tmp_path, method):
    out, _ = run(
        "quantize", byte_folder, "--out", tmp_path / "made", "--method", method, "--bits", 3,
        "--group", 8, "--text", text_file, "--calibration", text_file, *MEASURE, "--json",
        "--dtype", "float32",
    )  # fmt: skip
    result = json.loads(out)
    assert len(result["layers"]) == 21
    assert all(row["hessian_error"] > 0 and row["relative_error"] > 0 for row in result["layers"])
    assert result["ratio"] == pytest.approx(
        result["perplexity_after"] / result["perplexity_before"]
    )
    weight = load(tmp_path / "made").model.model.layers[1].mlp.up_proj.weight
    if method == "rtn":
        groups = weight.detach().reshape(-1, 8)
        assert max(len(group.unique()) for group in groups) <= 8
    evaluated, _ = run(
        "evaluate", tmp_path / "made", "--text", text_file, "--max-tokens", 500, "--window", 100,
        "--json", "--dtype", "float32",
    )  # fmt: skip
    assert json.loads(evaluated)["perplexity"] == pytest.approx(result["perplexity_after"])


def test_gptq_beats_rtn_in_every_first_block_layer(run, byte_folder, text_file, tmp_path):
    errors = {}
    for method in ("rtn", "gptq"):
        out, _ = run(
            "quantize", byte_folder, "--out", tmp_path / method, "--method", method, "--bits", 3,
            "--group", 0, "--text", text_file, "--calibration", text_file, *MEASURE, "--json",
            "--dtype", "float32",
        )  # fmt: skip
        rows = json.loads(out)["layers"][:3]
        errors[method] = [row["hessian_error"] for row in rows]
    assert all(np.array(errors["gptq"]) < np.array(errors["rtn"]))


@pytest.mark.parametrize(("method", "amount"), [("wanda", ["--sparsity", 0.5]),
                                                ("magnitude", ["--pattern", "2:4"])])  # fmt: skip
def test_prune_writes_exact_zeros(run, byte_folder, text_file, tmp_path, method, amount):
    out, _ = run(
        "prune", byte_folder, "--out", tmp_path / "made", "--method", method, *amount,
        "--text", text_file, "--calibration", text_file, *MEASURE, "--dtype", "float32",
    )  # fmt: skip
    assert "perplexity_before" in out
    assert "model.layers.2.mlp.down_proj" in out
    weight = load(tmp_path / "made").model.model.layers[0].self_attn.q_proj.weight
    zeros = (weight == 0).reshape(-1, 4).sum(dim=1)
    assert int(zeros.sum()) == weight.numel() // 2
    assert method == "wanda" or set(zeros.tolist()) == {2}


def test_evaluate_perplexity_has_an_interval_around_it(run, byte_folder, text_file):
    argv = ["evaluate", byte_folder, "--text", text_file, "--max-tokens", 600, "--window", 50]
    row = json.loads(run(*argv, "--json")[0])
    assert row["tokens"] == 599
    assert row["low"] <= row["perplexity"] * 1.001
    assert row["perplexity"] <= row["high"] * 1.001
    table = run(*argv)[0].splitlines()
    assert table[0].split() == ["model", "tokens", "low", "perplexity", "high", "level"]


def test_evaluate_multiple_choice(run, long_folder, small_documentation):
    out, _ = run(
        "evaluate", long_folder, "--task", "multiple-choice", "--count", 6, "--method", "letter",
        "--json",
    )  # fmt: skip
    row = json.loads(out)
    assert (row["items"], row["chance"]) == (6, 0.25)
    assert row["low"] <= row["accuracy"] <= row["high"]


def test_out_is_replaced_only_when_asked(run, refused, byte_folder, alpaca_file, tmp_path):
    argv = ["train", byte_folder, "--data", alpaca_file, "--out", tmp_path / "made", "--steps", 1]
    argv += ["--length", 120, "--rank", 2]
    run(*argv)
    before = (tmp_path / "made" / "adapter_model.safetensors").read_bytes()
    assert "not empty" in refused(*argv)
    run(*argv, "--overwrite", "--seed", 1)
    assert (tmp_path / "made" / "adapter_model.safetensors").read_bytes() != before


def test_serve_listens_and_answers(byte_folder, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = ["serve", str(byte_folder), "--port", str(port), "--name", "base"]
    with subprocess.Popen(
        [sys.executable, "-m", "labkit.cli.main", *argv],
        stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}/v1/models"
            for _ in range(300):
                try:
                    answer = httpx.get(url).json()
                    break
                except httpx.TransportError:
                    assert process.poll() is None
                    time.sleep(0.1)
            assert [model["id"] for model in answer["data"]] == ["base"]
        finally:
            process.terminate()
