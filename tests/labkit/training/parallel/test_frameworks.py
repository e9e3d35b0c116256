"""Settings of other frameworks: they agree with the layout, and say what they do."""

import dataclasses
import json

import pytest

from labkit.model.config import MoeConfig
from labkit.training.parallel.frameworks import (
    DEEPSPEED_MEANINGS,
    deepspeed_config,
    deepspeed_json,
    megatron_command,
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
    config = json.loads(deepspeed_json(layout))
    product = config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"] * 5
    assert config["train_batch_size"] == product == 385
    assert config["zero_optimization"]["stage"] == 3
    assert config.keys() == DEEPSPEED_MEANINGS.keys()


def test_refusals() -> None:
    with pytest.raises(ValueError, match="zero_stage=2"):
        megatron_flags(CONFIG, Layout(zero_stage=2), 90)
    with pytest.raises(ValueError, match="dense pre-norm"):
        megatron_flags(dataclasses.replace(CONFIG, moe=MoeConfig(num_experts=3)), Layout(), 90)
    with pytest.raises(ValueError, match="tensor=2, pipeline=3"):
        deepspeed_config(LAYOUT)
