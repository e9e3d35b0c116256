"""AdaLoRA against PEFT step by step: layer, loss term, schedule, allocation, files."""

import copy
import dataclasses
import json

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from labkit.tuning import adalora, adapter_files
from labkit.tuning.adalora import AdaLoraConfig

from .llama import tiny_llama

CONFIG = AdaLoraConfig(
    init_rank=5,
    target_rank=2,
    alpha=7.0,
    target_modules=("q_proj", "v_proj", "down_proj"),
    total_steps=14,
    initial_steps=2,
    final_steps=3,
    interval=2,
    beta_sensitivity=0.8,
    beta_uncertainty=0.6,
)


def peft_config(config: AdaLoraConfig = CONFIG) -> peft.AdaLoraConfig:
    return peft.AdaLoraConfig(
        init_r=config.init_rank,
        target_r=config.target_rank,
        lora_alpha=config.alpha,
        target_modules=list(config.target_modules),
        total_step=config.total_steps,
        tinit=config.initial_steps,
        tfinal=config.final_steps,
        deltaT=config.interval,
        beta1=config.beta_sensitivity,
        beta2=config.beta_uncertainty,
        orth_reg_weight=config.orthogonality_weight,
        task_type="CAUSAL_LM",
    )


def pair(gen: torch.Generator) -> tuple[nn.Module, peft.PeftModel]:
    """Our model and PEFT's, with equal adapters that change the output."""
    ours = adalora.apply(tiny_llama(bias=True), CONFIG, generator=gen)
    theirs = peft.get_peft_model(tiny_llama(bias=True), peft_config())
    with torch.no_grad():
        for name, layer in adalora.layers(ours).items():
            layer.lora_E.normal_(std=3.0, generator=gen)
            oracle = theirs.get_submodule(f"base_model.model.{name}")
            for factor in ("lora_A", "lora_E", "lora_B"):
                getattr(oracle, factor)["default"].copy_(getattr(layer, factor))
    return ours, theirs


def test_forward_loss_and_gradients_equal_pefts(gen: torch.Generator) -> None:
    ours, theirs = pair(gen)
    x = torch.randint(97, (2, 11), generator=gen)
    torch.testing.assert_close(ours(x).logits, theirs(x).logits, rtol=1e-5, atol=1e-6)
    term = CONFIG.orthogonality_weight * adalora.orthogonality(ours)
    loss = ours(x, labels=x).loss + term
    oracle = theirs(x, labels=x).loss
    torch.testing.assert_close(loss, oracle, rtol=1e-6, atol=0)
    assert term > 0.5
    loss.backward()
    oracle.backward()
    for name, layer in adalora.layers(ours).items():
        there = theirs.get_submodule(f"base_model.model.{name}")
        for factor in ("lora_A", "lora_E", "lora_B"):
            expected = getattr(there, factor)["default"].grad
            torch.testing.assert_close(
                getattr(layer, factor).grad, expected, rtol=1e-4, atol=1e-6, msg=f"{name}.{factor}"
            )


def test_orthogonal_factors_cost_nothing() -> None:
    model = adalora.apply(tiny_llama(), CONFIG)
    for layer in adalora.layers(model).values():
        nn.init.eye_(layer.lora_A)
        nn.init.eye_(layer.lora_B)
    assert adalora.orthogonality(model) == 0


@pytest.mark.parametrize("step", range(1, 16))
def test_budget_is_pefts(step: int) -> None:
    model = peft.get_peft_model(tiny_llama(), peft_config())
    expected, _ = model.base_model.rankallocator.budget_schedule(step)
    if step == CONFIG.total_steps - CONFIG.final_steps:
        expected = 6 * 2
    assert adalora.budget(CONFIG, step, 6) == expected


def run(gen: torch.Generator, steps: int) -> tuple[nn.Module, peft.PeftModel]:
    """Train both with the same data, and reallocate after each step."""
    ours, theirs = pair(gen)
    allocator = adalora.RankAllocator(ours, CONFIG)
    optimizers = [
        torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=0.3, momentum=0.5)
        for m in (ours, theirs)
    ]
    for step in range(1, steps + 1):
        x = torch.randint(97, (3, 9), generator=gen)
        term = CONFIG.orthogonality_weight * adalora.orthogonality(ours)
        (ours(x, labels=x).loss + term).backward()
        theirs(x, labels=x).loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        allocator.update(step)
        theirs.base_model.update_and_allocate(step)
        compare(ours, theirs, step)
        for optimizer in optimizers:
            optimizer.zero_grad()
    return ours, theirs


def compare(ours: nn.Module, theirs: peft.PeftModel, step: int) -> None:
    for name, layer in adalora.layers(ours).items():
        E = theirs.get_submodule(f"base_model.model.{name}").lora_E["default"]
        assert torch.equal(layer.lora_E == 0, E == 0), (step, name)
        torch.testing.assert_close(layer.lora_E, E, rtol=1e-3, atol=1e-5)


def test_allocation_follows_pefts_over_the_whole_run(gen: torch.Generator) -> None:
    ours, _ = run(gen, CONFIG.total_steps)
    ranks = [sum(left) for left in adalora.rank_pattern(ours).values()]
    assert sum(ranks) == 6 * CONFIG.target_rank
    assert len(set(ranks)) > 1  # layers differ in what they need


# PEFT checks AdaLoRA's pattern as if it were LoRA's, and warns of its own files as of ours.
@pytest.mark.filterwarnings("ignore:The following rank_pattern keys did not match")
# A layer that lost all its rank is taken for a shard that was not gathered.
@pytest.mark.filterwarnings("ignore:.*LoRA tensor.*have invalid shape")
def test_files_are_exact_both_ways(tmp_path, gen: torch.Generator) -> None:
    """The orders of summation differ in one rounding, 1e-6 of logits of about 0.1."""
    ours, theirs = run(gen, CONFIG.total_steps)
    x = torch.randint(97, (2, 11), generator=gen)
    adapter_files.save(ours, tmp_path / "ours", CONFIG, "tiny")
    read = peft.PeftModel.from_pretrained(tiny_llama(bias=True), str(tmp_path / "ours")).eval()
    torch.testing.assert_close(read(x).logits, ours(x).logits, rtol=0, atol=1e-6)
    again = adapter_files.load(tiny_llama(bias=True), tmp_path / "ours")
    torch.testing.assert_close(again(x).logits, ours(x).logits, rtol=0, atol=1e-6)
    assert (ours(x).logits - tiny_llama(bias=True)(x).logits).abs().max() > 1e-3

    theirs.eval().save_pretrained(tmp_path / "theirs")
    loaded = adapter_files.load(tiny_llama(bias=True), tmp_path / "theirs")
    torch.testing.assert_close(loaded(x).logits, theirs(x).logits, rtol=0, atol=1e-6)
    stored, got = (
        load_file(tmp_path / side / adapter_files.WEIGHTS_NAME) for side in ("theirs", "ours")
    )
    assert {k: v.shape for k, v in stored.items()} == {k: v.shape for k, v in got.items()}
    config = adapter_files.read(tmp_path / "theirs").config
    adapter_files.save(loaded, tmp_path / "resaved", config)
    resaved = load_file(tmp_path / "resaved" / adapter_files.WEIGHTS_NAME)
    assert all(torch.equal(resaved[name], stored[name]) for name in stored)
    patterns = [
        json.loads((tmp_path / side / adapter_files.CONFIG_NAME).read_text())["rank_pattern"]
        for side in ("ours", "theirs", "resaved")
    ]
    assert patterns[0] == patterns[1] == patterns[2]
    with pytest.raises(ValueError, match="fixed by rank_pattern"):
        adalora.RankAllocator(loaded, config)


def test_untrained_adapters_keep_their_whole_rank(tmp_path) -> None:
    adapter_files.save(adalora.apply(tiny_llama(), CONFIG), tmp_path, CONFIG)
    config = adapter_files.read(tmp_path).config
    assert config == CONFIG
    model, other = adalora.apply(tiny_llama(), CONFIG), dataclasses.replace(CONFIG, init_rank=4)
    with pytest.raises(ValueError, match=r"has rank 5 and scaling .*; the config says 4"):
        adapter_files.save(model, tmp_path, other)


def test_allocator_resumes_where_it_stood(gen: torch.Generator) -> None:
    model, _ = pair(gen)
    first = adalora.RankAllocator(model, CONFIG)
    for step in range(1, 6):
        backward(model, gen)
        first.update(step)
    twin = copy.deepcopy(model)
    second = adalora.RankAllocator(twin, CONFIG)
    second.load_state_dict(first.state_dict())
    state = gen.get_state()
    for allocator, which in ((first, model), (second, twin)):
        gen.set_state(state)
        for step in range(6, 13):
            backward(which, gen)
            allocator.update(step)
    assert adalora.rank_pattern(model) == adalora.rank_pattern(twin)
    assert first.kept.keys() == second.kept.keys()
    assert all(torch.equal(first.kept[name], second.kept[name]) for name in first.kept)


def backward(model: nn.Module, gen: torch.Generator) -> None:
    model.zero_grad()
    x = torch.randint(97, (3, 9), generator=gen)
    model(x, labels=x).loss.backward()


def test_the_last_reallocation_takes_in_no_further_gradient(gen: torch.Generator) -> None:
    model, _ = pair(gen)
    allocator = adalora.RankAllocator(model, CONFIG)
    backward(model, gen)
    allocator.update(1)
    model.zero_grad()
    allocator.update(CONFIG.total_steps - CONFIG.final_steps)
    assert sum(map(sum, adalora.rank_pattern(model).values())) == 6 * CONFIG.target_rank


def test_update_wants_gradients() -> None:
    model = adalora.apply(tiny_llama(), CONFIG)
    with pytest.raises(ValueError, match="lora_A has no gradient: call update before zero_grad"):
        adalora.RankAllocator(model, CONFIG).update(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_rank": 6}, r"target_rank=6 must lie in \[1, init_rank=5\]"),
        ({"initial_steps": 11}, "leave nothing of total_steps=14"),
        ({"beta_uncertainty": 1.0}, r"beta_uncertainty=1.0 must lie in \(0, 1\)"),
        ({"interval": 0}, "interval=0 at least 1"),
        ({"alpha": 0.0}, "alpha=0.0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"target_modules": ()}, "target_modules is empty"),
        ({"orthogonality_weight": -1.0}, "orthogonality_weight=-1.0"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)
    pattern = {"model.layers.0.mlp.down_proj": (True,) * 5}
    with pytest.raises(ValueError, match="rank pattern and the targets differ"):
        adalora.apply(tiny_llama(), dataclasses.replace(CONFIG, rank_pattern=pattern))
