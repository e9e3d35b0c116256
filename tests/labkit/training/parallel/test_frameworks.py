"""Settings of other frameworks: they agree with the layout, and say what they do."""

import dataclasses
import json

import pytest

from labkit.model.config import MoeConfig
from labkit.training.config import TrainConfig
from labkit.training.parallel import deepspeed_config as ds
from labkit.training.parallel.frameworks import (
    command,
    megatron_command,
    megatron_deepspeed_flags,
    megatron_flags,
)
from labkit.training.parallel.memory_model import Layout
from tests.labkit.training.parallel import tiny

CONFIG = tiny.tiny_model(tie_embeddings=False).config
LAYOUT = Layout(
    data=5, tensor=2, pipeline=3, microbatch=7, microbatches=11, recompute="full", zero_stage=1
)


def test_megatron_flags_carry_the_layout() -> None:
    flags = {flag.name: flag.value for flag in megatron_flags(CONFIG, LAYOUT, 90)}
    assert flags["--tensor-model-parallel-size"] == 2
    assert flags["--pipeline-model-parallel-size"] == 3
    assert flags["--micro-batch-size"] == 7
    assert flags["--global-batch-size"] == 5 * 7 * 11
    assert flags["--num-query-groups"] == 2
    assert flags["--seq-length"] == 90
    switches = {"--sequence-parallel", "--use-distributed-optimizer", "--recompute-granularity"}
    assert switches | {"--untie-embeddings-and-output-weights"} <= flags.keys()


def test_flags_that_do_not_apply_are_left_out() -> None:
    names = {flag.name for flag in megatron_flags(tiny.tiny_model().config, Layout(), 90)}
    assert not {name for name in names if "recompute" in name or "untie" in name}
    assert not {"--sequence-parallel", "--use-distributed-optimizer"} & names


def test_each_flag_is_given_once_and_explained() -> None:
    flags = megatron_flags(CONFIG, LAYOUT, 90)
    assert len({flag.name for flag in flags}) == len(flags)
    assert all(len(flag.meaning) > 5 for flag in flags)
    command = megatron_command(CONFIG, LAYOUT, 90)
    assert command.startswith("torchrun --nproc-per-node 30 pretrain_gpt.py \\\n")
    assert "  --swiglu \\\n" in command


def test_deepspeeds_batch_sizes_agree_and_all_keys_are_explained() -> None:
    layout = Layout(data=5, microbatch=7, microbatches=11, zero_stage=3)
    config = json.loads(ds.deepspeed_json(layout))
    product = config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"] * 5
    assert config["train_batch_size"] == product == 385
    assert config["zero_optimization"]["stage"] == 3
    assert config.keys() == {key.partition(".")[0] for key in ds.MEANINGS}
    sections = {f"zero_optimization.{key}" for key in config["zero_optimization"]}
    assert sections <= ds.MEANINGS.keys()


def test_refusals() -> None:
    with pytest.raises(ValueError, match="dense pre-norm"):
        megatron_flags(dataclasses.replace(CONFIG, moe=MoeConfig(num_experts=3)), Layout(), 90)
    with pytest.raises(ValueError, match="tensor=2, pipeline=3"):
        ds.deepspeed_config(LAYOUT)


def test_stages_two_and_three_are_megatrons_own_sharding() -> None:
    for stage, strategy in ((2, "optim_grads"), (3, "optim_grads_params")):
        layout = Layout(data=4, zero_stage=stage)
        flags = {flag.name: flag.value for flag in megatron_flags(CONFIG, layout, 90)}
        assert flags["--data-parallel-sharding-strategy"] == strategy
        assert {"--use-megatron-fsdp", "--use-distributed-optimizer"} <= flags.keys()


def test_the_fork_takes_its_own_names() -> None:
    train = TrainConfig(steps=50, lr=2e-3, warmup_steps=5, min_lr_ratio=0.25, clip_norm=None)
    flags = megatron_deepspeed_flags(CONFIG, Layout(data=3, zero_stage=3), 90, train)
    values = {flag.name: flag.value for flag in flags}
    assert values["--num-key-value-heads"] == 2
    assert (values["--zero-stage"], values["--normalization"]) == (3, "rmsnorm")
    assert "--no-pipeline-parallel" in values
    assert not {"--num-query-groups", "--use-distributed-optimizer"} & values.keys()
    assert (values["--train-iters"], values["--min-lr"], values["--clip-grad"]) == (50, 5e-4, 0.0)
    assert len(values) == len(flags)
    assert command("deepspeed", flags).startswith("deepspeed pretrain_gpt.py \\\n  --num-layers 3")
    in_stages = megatron_deepspeed_flags(CONFIG, LAYOUT, 90)
    names = {flag.name for flag in in_stages}
    assert "--no-pipeline-parallel" not in names
    assert {"--checkpoint-activations", "--deepspeed-activation-checkpointing"} <= names
