"""PEFT's files: exact in both directions, and nothing half-loaded from a bad one."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from labkit.runtime.errors import CorruptFileError
from labkit.tuning import adapter_files, lora

from .llama import tiny_llama

RANK = 3
ROUNDING = {False: 0.0, True: 1e-6}  # DoRA sums in another order than PEFT; logits are 0.1
OPTIONS = [
    {},
    {"target_modules": "all-linear"},
    {"target_modules": r".*\.1\.mlp\..*_proj"},
    {"target_modules": ("model.layers.0.self_attn.o_proj", "down_proj")},
    {"bias": "lora_only"},
    {"bias": "all", "dropout": 0.25},
    {"rank": 4, "alpha": 8, "use_rslora": True},
    {"use_dora": True},
    {"use_dora": True, "bias": "lora_only", "dropout": 0.25},
]


@pytest.fixture
def ids(gen: torch.Generator) -> torch.Tensor:
    return torch.randint(97, (2, 11), generator=gen)


def lora_config(**options: object) -> lora.LoraConfig:
    # A scaling that is a power of two, so that no order of operations rounds differently.
    return dataclasses.replace(lora.LoraConfig(rank=RANK, alpha=12.0), **options)


def peft_config(config: lora.LoraConfig) -> peft.LoraConfig:
    targets = config.target_modules
    return peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        bias=config.bias,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
    )


def trained(model: nn.Module, gen: torch.Generator) -> nn.Module:
    """As if trained: whatever may train gets new values."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1, generator=gen)
    return model.eval()


def saved_by_us(folder: Path, gen: torch.Generator, **options: object) -> nn.Module:
    config = lora_config(**options)
    model = trained(lora.apply(tiny_llama(bias=True), config), gen)
    adapter_files.save(model, folder, config, "tiny")
    return model


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_peft_to_us_is_exact(options, tmp_path, ids, gen) -> None:
    config = lora_config(**options)
    theirs = trained(peft.get_peft_model(tiny_llama(bias=True), peft_config(config)), gen)
    theirs.save_pretrained(tmp_path)
    ours = adapter_files.load(tiny_llama(bias=True), tmp_path)
    expected, got = theirs(ids).logits, ours(ids).logits
    assert (got - expected).abs().max() <= ROUNDING["use_dora" in options]
    assert (got - tiny_llama(bias=True)(ids).logits).abs().max() > 1e-2
    stored = load_file(tmp_path / "adapter_model.safetensors")
    parameters = {f"base_model.model.{name}": p for name, p in ours.named_parameters()}
    assert all(torch.equal(parameters[name], tensor) for name, tensor in stored.items())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_us_to_peft_is_exact(options, tmp_path, ids, gen) -> None:
    ours = saved_by_us(tmp_path, gen, **options)
    theirs = peft.PeftModel.from_pretrained(tiny_llama(bias=True), str(tmp_path)).eval()
    assert (theirs(ids).logits - ours(ids).logits).abs().max() <= ROUNDING["use_dora" in options]
    config = theirs.peft_config["default"]
    assert config.use_rslora == options.get("use_rslora", False)
    assert config.lora_dropout == options.get("dropout", 0.0)
    assert config.base_model_name_or_path == "tiny"
    again = adapter_files.load(tiny_llama(bias=True), tmp_path)
    assert torch.equal(again(ids).logits, ours(ids).logits)


def test_our_files_hold_what_pefts_hold(tmp_path, gen) -> None:
    saved_by_us(tmp_path / "ours", gen, bias="all")
    theirs = peft.get_peft_model(tiny_llama(bias=True), peft_config(lora_config(bias="all")))
    theirs.save_pretrained(tmp_path / "theirs")
    got, expected = (
        {
            name: tensor.shape
            for name, tensor in load_file(folder / adapter_files.WEIGHTS_NAME).items()
        }
        for folder in (tmp_path / "ours", tmp_path / "theirs")
    )
    assert got == expected
    assert "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight" in got
    ours, full = (
        json.loads((tmp_path / side / adapter_files.CONFIG_NAME).read_text())
        for side in ("ours", "theirs")
    )
    assert set(ours) <= set(full)
    described = {"task_type", "base_model_name_or_path"}
    assert {k: v for k, v in ours.items() if k not in described} == {
        k: sorted(full[k]) if k == "target_modules" else full[k] for k in ours if k not in described
    }


def test_odd_scaling_stays_within_one_rounding(tmp_path, ids, gen) -> None:
    ours = saved_by_us(tmp_path, gen, alpha=5.0)
    theirs = peft.PeftModel.from_pretrained(tiny_llama(bias=True), str(tmp_path)).eval()
    torch.testing.assert_close(theirs(ids).logits, ours(ids).logits, rtol=1e-5, atol=1e-6)


def test_adapter_is_rounded_to_a_bfloat16_base(tmp_path, gen) -> None:
    ours = saved_by_us(tmp_path, gen)
    low = adapter_files.load(tiny_llama(bias=True).bfloat16(), tmp_path)
    for name, layer in lora.layers(low).items():
        assert layer.lora_A.weight.dtype == torch.bfloat16
        full = ours.get_submodule(name).lora_A.weight
        assert torch.equal(layer.lora_A.weight, full.bfloat16())


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "change",
    [
        {"alora_invocation_tokens": [1]},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 2}},
        {"fan_in_fan_out": True},
        {"layers_to_transform": [1]},
        {"lora_bias": True},
        {"a_future_variant": "on"},
        {"init_lora_weights": "pissa"},
        {"peft_type": "LOHA"},
    ],
    ids=str,
)
def test_variants_are_refused_not_ignored(change, tmp_path, gen) -> None:
    saved_by_us(tmp_path, gen)
    edit_config(tmp_path, **change)
    ((key, value),) = change.items()
    with pytest.raises(ValueError, match=re.escape(f"{key}={value!r}")) as caught:
        adapter_files.read(tmp_path)
    assert not isinstance(caught.value, CorruptFileError)


def truncate(name: str, size: int) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[:size])

    return spoil


def put(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def add_integer_tensor(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({"base_model.model.x": torch.arange(3), **load_file(path)}, path)


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (truncate("adapter_model.safetensors", -7), "adapter_model.safetensors"),
        (truncate("adapter_model.safetensors", 5), "adapter_model.safetensors"),
        (truncate("adapter_model.safetensors", 0), "adapter_model.safetensors"),
        (put("adapter_model.safetensors", b"\x08\0\0\0\0\0\0\0not json"), "adapter_model"),
        (add_integer_tensor, "adapter_model.safetensors"),
        (truncate("adapter_config.json", 40), "adapter_config.json"),
        (put("adapter_config.json", b"\xff\xfe"), "adapter_config.json"),
        (put("adapter_config.json", b"[1]"), "adapter_config.json"),
        (put("adapter_config.json", b'{"peft_type": "LORA"}'), "adapter_config.json"),
        (lambda folder: edit_config(folder, r="3"), "adapter_config.json"),
    ],
)
def test_damaged_files_are_named_and_nothing_is_loaded(spoil, name, tmp_path, gen) -> None:
    saved_by_us(tmp_path, gen)
    spoil(tmp_path)
    assert_refused(tmp_path, CorruptFileError, name)


def assert_refused(folder: Path, kind: type[Exception], match: str) -> None:
    model = tiny_llama(bias=True)
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(kind, match=match):
        adapter_files.load(model, folder)
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(p, before[name]) and p.requires_grad for name, p in after.items())


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_absent_files_are_named(name, tmp_path, gen) -> None:
    saved_by_us(tmp_path, gen)
    (tmp_path / name).unlink()
    assert_refused(tmp_path, FileNotFoundError, name)


@pytest.mark.parametrize("change", ["drop", "widen", "rename"])
def test_tensors_that_do_not_fit_the_model_are_refused(change, tmp_path, gen) -> None:
    saved_by_us(tmp_path, gen)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    name = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"
    tensor = tensors.pop(name)
    if change == "widen":
        tensors[name] = torch.cat((tensor, tensor))
    elif change == "rename":
        tensors[name.replace("layers.1", "layers.7")] = tensor
    save_file(tensors, path)
    assert_refused(
        tmp_path, ValueError, r"does not fit this model: [12] tensors differ.*v_proj.lora_B"
    )


def test_save_wants_the_config_that_was_applied(tmp_path, gen) -> None:
    config = lora_config()
    model = lora.apply(tiny_llama(bias=True), config)
    with pytest.raises(ValueError, match=r"has rank 3 and scaling 4.0; the config says 3 and 2.0"):
        adapter_files.save(model, tmp_path / "a", dataclasses.replace(config, alpha=6.0))
    with pytest.raises(ValueError, match="no LoRA adapters"):
        adapter_files.save(tiny_llama(bias=True), tmp_path / "a", config)
    assert not (tmp_path / "a").exists()
    adapter_files.save(model, tmp_path / "a", config)
    with pytest.raises(ValueError, match="has LoRA adapters already"):
        adapter_files.load(model, tmp_path / "a")
