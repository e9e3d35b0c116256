"""Help is instant and shows examples; bad input ends in one sentence and leaves nothing."""

import re
import subprocess
import sys

import pytest

from labkit.cli.main import COMMANDS, build_parser, main

NAMES = [command.__name__.rpartition(".")[2] for command in COMMANDS]


def test_the_commands_are_those_of_the_design():
    assert NAMES == ["pretrain", "train", "generate", "quantize", "prune", "evaluate", "serve"]


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_examples_that_parse(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    help_text = capsys.readouterr().out
    examples = re.findall(rf"^ .*?(labkit {name} [^|\n]*)$", help_text, flags=re.MULTILINE)
    assert len(examples) >= 2
    import shlex

    for example in examples:
        build_parser().parse_args(shlex.split(example)[1:])


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from labkit.cli.main import build_parser\n"
        "build_parser().format_help()\n"
        "heavy = {'torch', 'numpy', 'fastapi', 'transformers', 'mlflow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["generate", "no-such-model", "hi"], "'no-such-model' is unknown"),
        (["generate", "MODEL", "hi", "--temperature", "-1"], "temperature=-1.0"),
        (["generate", "MODEL", "hi", "--top-p", "2"], "top_p=2.0"),
        (["generate", "MODEL", ""], "prompt 0 is empty"),
        (["generate", "MODEL", "hi", "--dtype", "int3"], "dtype='int3' is unknown"),
        (["generate", "MODEL", "hi", "--adapter", "nowhere"], "nowhere"),
        (["generate", "--prompt", "hi"], "required: MODEL"),
        (["generate", "--checkpoint", "MODEL"], "required: PROMPT"),
        (["generate", "MODEL", "hi", "--prompt", "yo"], "give all prompts one way"),
        (["generate", "MODEL", "--checkpoint", "MODEL", "--prompt", "hi"], "give one of them"),
        (
            [
                "generate", "--checkpoint", "MODEL", "--adapter", "MODEL", "--prompt", "hi",
            ],
            "give one of them",
        ),
        (["generate", "--checkpoint", "nowhere", "--prompt", "hi"], "'nowhere' is unknown"),
        (["generate", "--checkpoint", "MODEL", "--prompt", ""], "prompt 0 is empty"),
        (["train", "MODEL"], "required: --out"),
        (["train", "MODEL", "--out", "OUT", "--batch-size", "0"], "batch_size=0"),
        (["train", "MODEL", "--out", "OUT", "--data", "none.json"], "none.json"),
        (["train", "MODEL", "--out", "OUT", "--rank", "0", "--data", "ALPACA"], "rank=0"),
        (["train", "MODEL", "--out", "OUT", "--steps", "0", "--data", "ALPACA"], "steps=0"),
        (["train", "MODEL", "--out", "OUT", "--targets", "x_proj", "--data", "ALPACA"], "x_proj"),
        (["train", "MODEL", "--out", "OUT", "--length", "5", "--data", "ALPACA"], "--length 5"),
        (["train", "MODEL", "--out", "OUT", "--log-every", "0", "--data", "ALPACA"], "--log-every"),
        (["train", "MODEL", "--out", "FULL"], "FULL is not empty"),
        (["train", "MODEL", "--out", "FULL", "--overwrite"], "holds no model or adapter"),
        (["quantize", "MODEL", "--out", "OUT", "--bits", "99"], "bits=99"),
        (["quantize", "MODEL", "--out", "OUT", "--group", "-1"], "--group -1"),
        (
            [
                "quantize", "MODEL", "--out", "OUT", "--group", "7", "--text", "TEXT",
                "--calibration", "TEXT",
            ],
            "group_size=7 does not divide",
        ),
        (["quantize", "MODEL", "--out", "OUT", "--calibration", "none.txt"], "none.txt"),
        (["prune", "MODEL", "--out", "OUT"], "--sparsity --pattern"),
        (["prune", "MODEL", "--out", "OUT", "--sparsity", "1.5"], "sparsity=1.5"),
        (["prune", "MODEL", "--out", "OUT", "--pattern", "2/4"], "'2/4' must read n:m"),
        (["evaluate", "MODEL", "--text", "none.txt"], "none.txt"),
        (["evaluate", "MODEL", "--text", "TEXT", "--stride", "999"], "stride=999"),
        (["evaluate", "MODEL", "--level", "1.5"], "--level 1.5"),
        (["evaluate", "MODEL", "--task", "multiple-choice", "--count", "1"], "--count 1"),
        (["serve", "MODEL", "--adapter", "red"], "'red' must read NAME=PATH"),
        (["serve", "MODEL", "--adapter", "a=x", "--adapter", "a=y"], "'a' is given twice"),
        (["serve", "MODEL", "--port", "70000"], "--port 70000"),
        (["serve", "MODEL", "--adapter", "a=nowhere"], "nowhere"),
        (["pretrain", "--preset", "giant"], "'giant'"),
        (["pretrain", "--preset", "smoke"], "needs --out"),
        (["pretrain", "--preset", "smoke", "--out", "MODEL"], "holds a model"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_nothing_is_written(
    argv, message, refused, byte_folder, alpaca_file, text_file, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    full = tmp_path / "FULL"
    full.mkdir()
    (full / "precious").write_text("kept")
    places = {"MODEL": byte_folder, "ALPACA": alpaca_file, "TEXT": text_file}
    if "serve" in argv and "a=nowhere" not in argv:
        monkeypatch.setattr("labkit.serving.server.serve", lambda *a, **k: pytest.fail("served"))
    assert message in refused(*[places.get(word, word) for word in argv])
    assert not (tmp_path / "OUT").exists()
    assert (full / "precious").read_text() == "kept"
    assert not list(tmp_path.glob(".*"))


def test_a_corrupt_model_is_refused_by_name(refused, byte_folder, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(byte_folder, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors is truncated" in refused("generate", broken, "hi")


def test_interruption_has_its_own_code(monkeypatch, capsys, byte_folder):
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("labkit.model.zoo.load", interrupt)
    assert main(["generate", str(byte_folder), "hi"]) == 130
    assert "interrupted" in capsys.readouterr().err
