"""Memory formulas against bytes counted on real models and in what autograd really saves."""

import pytest
import torch
from torch import Tensor

from labkit.model.config import ModelConfig, MoeConfig
from labkit.model.layers import rope_table
from labkit.training.parallel.collectives import Group
from labkit.training.parallel.memory_model import (
    Layout,
    activation_bytes,
    block_activation_bytes,
    block_parameters,
    check_model,
    peak_bytes,
    stage_parameters,
    state_bytes,
)
from labkit.training.parallel.pipeline import split
from labkit.training.parallel.tensor_parallel import shard
from tests.labkit.training.parallel import tiny

B, T = 3, 10


def numel(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for p in {p for m in modules for p in m.parameters()})


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_stage_parameters_are_those_of_real_segments(p: int, tied: bool) -> None:
    model = tiny.tiny_model(num_layers=5, tie_embeddings=tied)
    for rank in range(p):
        segments = split(model, Group(ranks=tuple(range(p)), rank=rank))
        assert stage_parameters(model.config, Layout(pipeline=p), rank) == numel(*segments)


@pytest.mark.parametrize("tied", [True, False])
def test_tensor_parallel_parameters_are_those_of_the_first_rank(tied: bool) -> None:
    model = tiny.tiny_model(tie_embeddings=tied)
    config = model.config
    block = shard(model, Group(ranks=(0, 1), rank=0)).model.layers[0]
    assert stage_parameters(config, Layout(tensor=2), 0) == numel(model)
    assert block_parameters(config, 2) == numel(block)


def test_one_rank_holds_the_configurations_parameters() -> None:
    config = ModelConfig.smollm2_135m()
    assert stage_parameters(config, Layout(), 0) == config.num_parameters
    assert state_bytes(config, Layout(), 0) == 16 * config.num_parameters


def saved_bytes(dtype: torch.dtype) -> int:
    """Distinct storages that autograd saves in one block, parameters and RoPE's tables apart."""
    model = tiny.tiny_model().to(dtype)
    block = model.model.layers[1]
    rope = tuple(x.to(dtype) for x in rope_table(torch.arange(T).expand(B, T), 4, 1e4))
    apart = {x.untyped_storage().data_ptr() for x in (*block.parameters(), *rope)}
    storages: dict[int, int] = {}
    kept = []

    def save(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        kept.append(storage)  # an address must not be used twice
        if storage.data_ptr() not in apart and x.is_floating_point():
            storages[storage.data_ptr()] = storage.nbytes()
        return x

    x = torch.randn(B, T, 24, dtype=dtype, generator=torch.Generator().manual_seed(1))
    with torch.autograd.graph.saved_tensors_hooks(save, lambda x: x):
        block(x.requires_grad_(), rope)
    return sum(storages.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_blocks_activations_are_what_autograd_saves(dtype: torch.dtype) -> None:
    config = tiny.tiny_model().config
    assert saved_bytes(dtype) == block_activation_bytes(config, B, T, item_bytes=dtype.itemsize)


def test_1f1b_keeps_one_micro_batch_less_at_each_stage() -> None:
    config = tiny.tiny_model(num_layers=6).config
    layout = Layout(pipeline=3, microbatch=B, microbatches=7)
    block = block_activation_bytes(config, B, T)
    assert activation_bytes(config, layout, T, 0) == 3 * 2 * block
    assert activation_bytes(config, layout, T, 1) == 2 * 2 * block
    head = 8 * B * T * 24 + 4 * B * T + 4 * B * T * 97
    assert activation_bytes(config, layout, T, 2) == 2 * block + head


def test_full_recomputation_keeps_inputs_and_one_block() -> None:
    config = tiny.tiny_model(num_layers=6).config
    layout = Layout(pipeline=2, microbatch=B, microbatches=7, recompute="full")
    block = block_activation_bytes(config, B, T)
    assert activation_bytes(config, layout, T, 0) == 2 * 3 * 2 * B * T * 24 + block


def test_each_zero_stage_needs_less() -> None:
    config = ModelConfig.minillm_70m()
    peaks = [peak_bytes(config, Layout(data=4, zero_stage=stage), 100) for stage in range(4)]
    assert peaks == sorted(set(peaks), reverse=True)
    assert peaks[0] - peaks[1] == 9 * config.num_parameters  # 12 Psi becomes 3 Psi


def test_refusals() -> None:
    config = tiny.tiny_model().config
    with pytest.raises(ValueError, match="tensor=4 must divide num_heads=6"):
        check_model(config, Layout(tensor=4))
    with pytest.raises(ValueError, match="pipeline=4 exceeds num_layers=3"):
        check_model(config, Layout(pipeline=4))
    with pytest.raises(ValueError, match="dense pre-norm"):
        peak_bytes(tiny.tiny_model(moe=MoeConfig(num_experts=3)).config, Layout(), T)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": 0}, "data=0"),
        ({"recompute": "some"}, "recompute='some'"),
        ({"zero_stage": 4}, "zero_stage=4"),
        ({"zero_stage": 2, "pipeline": 2}, "use stage 1 at most"),
    ],
)
def test_layouts_that_contradict_themselves(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layout(**changes)
