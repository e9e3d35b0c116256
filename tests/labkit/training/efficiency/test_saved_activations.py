"""What operations are said to save, against what autograd saves, over shapes and adapters."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch

from labkit.model.config import ModelConfig, MoeConfig
from labkit.model.minillm import MiniLLM
from labkit.objectives.language_modelling import cross_entropy
from labkit.training.efficiency.checkpointing import checkpointed
from labkit.training.efficiency.measured_memory import saved_for_backward
from labkit.training.efficiency.saved_activations import (
    RANDOM_STATE_BYTES,
    Step,
    block_saves,
    kept_bytes,
)
from labkit.training.parallel.memory_model import block_activation_bytes
from labkit.tuning import lora

ADAPTERS = {
    "full": None,
    "qv": lora.LoraConfig(rank=3),
    "all": lora.LoraConfig(rank=5, target_modules="all-linear"),
    "k-up": lora.LoraConfig(rank=2, target_modules=("k_proj", "up_proj")),
    "o-down": lora.LoraConfig(rank=2, target_modules=("o_proj", "down_proj")),
    "gate": lora.LoraConfig(rank=2, target_modules=("gate_proj",)),
}


@contextmanager
def recomputed(model: MiniLLM, mode: str) -> Iterator[None]:
    with nullcontext() if mode == "none" else checkpointed(model, mode):
        yield


def measured(model: MiniLLM, step: Step) -> int:
    """Bytes autograd saves in a forward pass and its loss, parameters apart."""
    if step.lora is not None:
        lora.apply(model, step.lora)
    if step.item_bytes == 2:
        model.to(torch.bfloat16)
    ids = torch.randint(0, 97, (step.batch, step.length))
    with recomputed(model, step.recompute), saved_for_backward(model.parameters()) as saved:
        cross_entropy(model(ids), ids)
    return saved.bytes


@pytest.mark.parametrize("item_bytes", [4, 2])
@pytest.mark.parametrize("adapters", ADAPTERS)
def test_it_is_what_autograd_saves_to_the_byte(
    tiny_model: MiniLLM, adapters: str, item_bytes: int
) -> None:
    step = Step(batch=3, length=11, item_bytes=item_bytes, lora=ADAPTERS[adapters])
    scalars = 4  # the loss keeps the number of its targets
    kept = kept_bytes(tiny_model.config, step)
    assert measured(tiny_model, step) == sum(kept.values()) + scalars


@pytest.mark.parametrize("adapters", ["full", "qv", "all"])
@pytest.mark.parametrize("mode", ["selective", "full"])
def test_recomputed_segments_keep_their_inputs(
    tiny_model: MiniLLM, mode: str, adapters: str
) -> None:
    step = Step(batch=3, length=11, recompute=mode, lora=ADAPTERS[adapters])
    kept = kept_bytes(tiny_model.config, step)
    assert kept["random states"] == 3 * RANDOM_STATE_BYTES == 3 * torch.get_rng_state().nbytes
    # The tables and random states are held by the segments, not saved by an operation.
    expected = sum(kept.values()) - kept["rope"] - kept["random states"] + 4
    assert measured(tiny_model, step) == expected


@pytest.mark.parametrize("item_bytes", [4, 2])
def test_a_block_is_that_of_the_memory_model(tiny_config: ModelConfig, item_bytes: int) -> None:
    step = Step(batch=3, length=11, item_bytes=item_bytes)
    found = sum(saved.bytes for saved in block_saves(tiny_config, step))
    assert found == block_activation_bytes(tiny_config, 3, 11, item_bytes=item_bytes)


def test_lora_saves_less_than_full_training(tiny_config: ModelConfig) -> None:
    sizes = {}
    for name in ("full", "all", "qv"):
        step = Step(batch=3, length=11, lora=ADAPTERS[name])
        sizes[name] = sum(saved.bytes for saved in block_saves(tiny_config, step))
    assert sizes["qv"] < sizes["all"]
    names = {s.tensor for s in block_saves(tiny_config, Step(batch=3, length=11))}
    frozen = Step(batch=3, length=11, lora=ADAPTERS["qv"])
    gone = names - {s.tensor for s in block_saves(tiny_config, frozen)}
    assert gone == {
        "input_layernorm normalised",
        "post_attention_layernorm normalised",
        "post_attention_layernorm output",
        "silu(gate) * up output",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch=0"),
        ({"length": 1}, "length=1"),
        ({"item_bytes": 8}, "item_bytes=8"),
        ({"recompute": "some"}, "recompute='some'"),
        ({"lora": lora.LoraConfig(dropout=0.1)}, "without dropout"),
        ({"lora": lora.LoraConfig(target_modules=("lm_head",))}, "must name some of"),
    ],
)
def test_steps_that_are_not_covered(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Step(**({"batch": 2, "length": 5} | changes))


def test_experts_are_not_covered(tiny_config: ModelConfig) -> None:
    config = ModelConfig(
        **{n: getattr(tiny_config, n) for n in tiny_config.__slots__ if n != "moe"},
        moe=MoeConfig(num_experts=3),
    )
    with pytest.raises(ValueError, match="dense pre-norm"):
        kept_bytes(config, Step(batch=2, length=5))
