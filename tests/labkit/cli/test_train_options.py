"""A run described in a file: equal to the one typed, and every mistake in it named."""

import dataclasses
import json

import pytest

from labkit.cli import train, train_options
from labkit.cli.main import build_parser
from labkit.training.config import TrainConfig

FILE = """\
model = "{model}"
out = "{out}"
data = "{data}"
steps = 3
lr = 1
rank = 3
length = 120
weight_decay = 0.5
rslora = true
json = true
dtype = "float32"
"""


@pytest.fixture
def write(tmp_path, byte_folder, alpaca_file):
    def write(*, drop=(), **extra):
        places = {"model": byte_folder, "out": tmp_path / "made", "data": alpaca_file}
        lines = FILE.format(**places).splitlines()
        lines = [line for line in lines if line.partition(" ")[0] not in {*drop, *extra}]
        lines += [f"{name} = {value}" for name, value in extra.items()]
        path = tmp_path / "run.toml"
        path.write_text("\n".join(lines))
        return path

    return write


def resolved(*argv):
    return train_options.resolve(build_parser().parse_args(["train", *map(str, argv)]))


def _losses(text):
    return [json.loads(line)["loss_nats"] for line in text.splitlines()]


def test_a_file_trains_as_the_same_options_do(run, write, tmp_path, byte_folder, alpaca_file):
    out, err = run("train", "--config", write())
    assert f"wrote {tmp_path / 'made'}" in err
    typed, _ = run(
        "train", byte_folder, "--out", tmp_path / "typed", "--data", alpaca_file, "--steps", 3,
        "--lr", 1, "--rank", 3, "--length", 120, "--weight-decay", 0.5, "--rslora", "--json",
        "--dtype", "float32",
    )  # fmt: skip
    assert _losses(out) == _losses(typed)
    saved = json.loads((tmp_path / "made" / "adapter_config.json").read_text())
    assert (saved["r"], saved["use_rslora"]) == (3, True)


def test_the_command_line_goes_before_the_file_and_the_file_before_defaults(write, tmp_path):
    path = write()
    options = resolved("other", "--config", path, "--steps", 60, "--lr", 0.5)
    assert (options.model, options.steps, options.lr) == ("other", 60, 0.5)
    assert (options.rank, options.rslora, options.out) == (3, True, tmp_path / "made")
    assert (options.batch_size, options.method, options.alpha) == (2, "lora", None)
    assert type(resolved("--config", path).lr) is float
    # The default's own value, typed, is not taken for a default.
    assert resolved("--steps", 60, "--config", path).steps == 60


def test_every_option_can_stand_in_a_file_and_every_field_is_an_option(write):
    args = vars(build_parser().parse_args(["train", "--config", str(write())]))
    assert args.keys() - {"config", "run", "prog"} == train_options.FIELDS.keys()
    assert all(args[name] is None for name in train_options.FIELDS)


def test_defaults_are_the_training_configurations():
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    for name in ("min_lr_ratio", "weight_decay", "clip_norm", "accumulation", "seed"):
        assert train_options.FIELDS[name].default == defaults[name]


def test_every_setting_reaches_the_training(write):
    options = resolved(
        "--config", write(min_lr_ratio=0.3, clip_norm=2, accumulation=3, warmup=1, seed=9)
    )
    assert train._train_config(options) == TrainConfig(
        steps=3, lr=1.0, warmup_steps=1, min_lr_ratio=0.3, weight_decay=0.5, clip_norm=2.0,
        accumulation=3, seed=9,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"batchsize": 3}, "unknown keys: 'batchsize' (nearest: 'batch_size')"),
        ({'"batch-size"': 3}, "'batch-size' (nearest: 'batch_size')"),
        ({"step": 3, "learning": 1}, "'step' (nearest: 'steps'); 'learning' (nearest: '"),
        ({"steps": '"3"'}, "steps = '3' must be a whole number"),
        ({"steps": 3.5}, "steps = 3.5 must be a whole number"),
        ({"steps": "true"}, "steps = True must be a whole number"),
        ({"lr": "true"}, "lr = True must be a number"),
        ({"track": 1}, "track = 1 must be true or false"),
        ({"targets": '["q_proj"]'}, "targets = ['q_proj'] must be a string"),
        ({"out": 3}, "out = 3 must be a string"),
        ({"warmup": '"no"'}, "warmup = 'no' must be a whole number"),
        ({"method": '"lore"'}, "method='lore' is unknown: use one of 'adalora', 'dora', 'full'"),
        ({"method": '"ia3"'}, "rank=3 is an option of LoRA, and method='ia3' takes none"),
        ({"method": '"full"', "rank": 8}, "rslora=True is an option of LoRA"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"rank": 0}, "rank=0"),
        ({"min_lr_ratio": 2}, "min_lr_ratio=2.0 must lie between 0 and 1"),
        ({"clip_norm": 0}, "clip_norm=0.0"),
        ({"model": '"no-such-model"'}, "'no-such-model' is unknown"),
        ({"steps": ""}, "is not TOML"),
    ],
)
def test_mistakes_in_a_file_are_named(refused, write, tmp_path, extra, message):
    assert message in refused("train", "--config", write(**extra))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("drop", [("model",), ("out",), ("model", "out")])
def test_what_stands_nowhere_is_named(refused, write, drop):
    path = write(drop=drop)
    assert f"{path} has no {' and no '.join(drop)}" in refused("train", "--config", path)


def test_a_file_that_cannot_be_read_is_named(refused, tmp_path):
    assert "absent.toml" in refused("train", "--config", tmp_path / "absent.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\x00")
    assert "bytes.toml is not TOML" in refused("train", "--config", tmp_path / "bytes.toml")
    assert "required: MODEL, --out" in refused("train")
