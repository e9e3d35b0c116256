"""Adapters that must not be mounted, each refused by the right kind of error."""

import copy
import json
import pickle
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from labkit.inference.adapters import fingerprint
from labkit.inference.adapters.checks import MAX_CONFIG_BYTES
from labkit.inference.adapters.errors import (
    AdapterError,
    InvalidAdapterError,
    MismatchedAdapterError,
    UnsupportedAdapterError,
)
from labkit.inference.adapters.header import MAX_HEADER_BYTES
from labkit.tuning import adapter_files, ia3

from .conftest import new_bank
from .made import made

PREFIX = "base_model.model.model.layers.0.self_attn."


@pytest.fixture
def folder(tiny_model, tmp_path):
    return made(tiny_model, tmp_path / "adapter", 1)


@pytest.fixture
def bank(tiny_model):
    return new_bank(tiny_model)


def edit_config(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def edit_tensors(folder, change, metadata=None):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=metadata)


def refused(bank, folder, kind, match):
    with pytest.raises(kind, match=match) as caught:
        bank.mount("a", folder)
    assert type(caught.value) is kind
    assert bank.names == ()
    bank.check_integrity()


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "trained biases"),
        ({"bias": "lora_only"}, "trained biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ({"layers_to_transform": [0]}, "layers_to_transform"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"peft_type": "LOHA"}, "LOHA"),
    ],
)
def test_variants_that_are_no_sum_on_the_output(bank, folder, fields, match):
    edit_config(folder, **fields)
    refused(bank, folder, UnsupportedAdapterError, match)


def test_a_real_dora_file(bank, tiny_model, tmp_path):
    folder = made(tiny_model, tmp_path / "dora", 1, use_dora=True)
    refused(bank, folder, UnsupportedAdapterError, "DoRA")


def test_other_methods(bank, tiny_model, tmp_path):
    config = ia3.Ia3Config(target_modules=("k_proj",), feedforward_modules=())
    model = ia3.apply(tiny_model, config)
    adapter_files.save(model, tmp_path / "ia3", config)
    refused(bank, tmp_path / "ia3", UnsupportedAdapterError, "Ia3.*only LoRA")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter_model.safetensors", b""),
        ("adapter_model.safetensors", b"abc"),
        ("adapter_model.safetensors", struct.pack("<Q", 2**63)),
        ("adapter_model.safetensors", struct.pack("<Q", 50) + b"{}"),
        ("adapter_model.safetensors", struct.pack("<Q", 2) + b"[]"),
        ("adapter_model.safetensors", struct.pack("<Q", 2) + b"{}"),
        ("adapter_model.safetensors", struct.pack("<Q", 9) + b'{"a": 12}'),
        ("adapter_model.safetensors", struct.pack("<Q", 4000) + b"[" * 4000),
        ("adapter_model.safetensors", pickle.dumps({"a": 1})),
        ("adapter_config.json", b"{"),
        ("adapter_config.json", b"[]"),
        ("adapter_config.json", b"{}"),
        ("adapter_config.json", b"\xff\xfe"),
        ("adapter_config.json", b"[" * 100_000),
        ("adapter_config.json", b" " * (MAX_CONFIG_BYTES + 1)),
    ],
    ids=range(15),
)
def test_damaged_files(bank, folder, name, content):
    (folder / name).write_bytes(content)
    refused(bank, folder, InvalidAdapterError, name)


def test_every_truncation_and_a_longer_file(bank, folder):
    path = folder / "adapter_model.safetensors"
    whole = path.read_bytes()
    for length in [*range(0, len(whole), len(whole) // 40), len(whole) - 1]:
        path.write_bytes(whole[:length])
        refused(bank, folder, InvalidAdapterError, "safetensors")
    path.write_bytes(whole + b"\0")
    refused(bank, folder, InvalidAdapterError, "safetensors")


def test_flipped_header_bytes_are_refused_or_harmless(bank, folder, gen):
    path = folder / "adapter_model.safetensors"
    whole = bytearray(path.read_bytes())
    [length] = struct.unpack("<Q", whole[:8])
    for position in torch.randint(8 + length, (150,), generator=gen).tolist():
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            bank.mount("a", folder)
        except AdapterError:
            continue
    bank.check_integrity()


def test_absent_files_and_pickles(bank, folder, tmp_path):
    refused(bank, tmp_path / "nowhere", InvalidAdapterError, "adapter_config.json is absent")
    path = folder / "adapter_model.safetensors"
    torch.save(load_file(path), folder / "adapter_model.bin")
    path.unlink()
    refused(bank, folder, InvalidAdapterError, "adapter_model.bin is a pickle.*not read")


def test_size_is_refused_before_it_is_read(bank, folder):
    path = folder / "adapter_model.safetensors"
    with path.open("r+b") as file:
        file.truncate(2**40)  # a sparse file: reading it would not end
    refused(bank, folder, InvalidAdapterError, f"{2**40} bytes, above the limit")
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER_BYTES + 1))
        file.truncate(MAX_HEADER_BYTES + 2**12)
    refused(bank, folder, InvalidAdapterError, "a header of")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
def test_one_weight_that_is_no_number(bank, folder, factor, value):
    edit_tensors(folder, lambda t: t[f"{PREFIX}k_proj.{factor}.weight"].__setitem__((1, 2), value))
    refused(bank, folder, InvalidAdapterError, "NaN or infinite weights at .*k_proj")


def test_scaling_that_overflows(bank, folder):
    edit_config(folder, lora_alpha=1e300)
    refused(bank, folder, InvalidAdapterError, "NaN or infinite")


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop(f"{PREFIX}q_proj.lora_B.weight"),
        lambda t: t.update({f"{PREFIX}q_proj.lora_A.weight": torch.zeros(4, 24)}),
        lambda t: t.update({f"{PREFIX}q_proj.lora_A.weight": torch.zeros(24, 3)}),
        lambda t: t.update({f"{PREFIX}q_proj.lora_B.weight": torch.zeros(23, 3)}),
        lambda t: t.update({f"{PREFIX}q_proj.lora_B.weight": torch.zeros(72)}),
        lambda t: t.update({f"{PREFIX}z_proj.lora_A.weight": torch.zeros(3, 24)}),
        lambda t: t.update({"base_model.model.lm_head.lora_A.weight": torch.zeros(3, 24)}),
        lambda t: t.update({f"{PREFIX}q_proj.lora_A.weight.x": torch.zeros(3, 24)}),
        lambda t: [t.pop(name) for name in list(t) if ".2.mlp.up_proj" in name],
    ],
    ids=range(9),
)
def test_tensors_of_another_model(bank, folder, change):
    edit_tensors(folder, change)
    refused(bank, folder, MismatchedAdapterError, "adapter")


def test_a_deeper_and_a_shallower_base(bank, folder):
    def renamed(tensors):
        for name in [name for name in tensors if "layers.2" in name]:
            tensors[name.replace("layers.2", "layers.3")] = tensors.pop(name)

    edit_tensors(folder, renamed)
    refused(bank, folder, MismatchedAdapterError, r"layers\.3")


def test_rank_above_the_banks(tiny_model, folder):
    refused(new_bank(tiny_model, max_rank=2), folder, MismatchedAdapterError, "rank 3, above")
    assert new_bank(tiny_model, max_rank=3).mount("a", folder) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8])
def test_dtypes(bank, folder, dtype):
    edit_tensors(folder, lambda t: t.update({k: v.to(dtype) for k, v in t.items()}))
    refused(bank, folder, InvalidAdapterError, "adapters are F32, F16, BF16")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_are_taken(bank, folder, dtype):
    edit_tensors(folder, lambda t: t.update({k: v.to(dtype) for k, v in t.items()}))
    assert bank.mount("a", folder) == 1


@pytest.mark.parametrize(
    "fields",
    [{"r": "3"}, {"r": None}, {"r": 3.0}, {"lora_alpha": "7"}, {"lora_alpha": None}, {"r": 0},
     {"use_rslora": "no"}, {"target_modules": None}, {"target_modules": 5}, {"lora_alpha": -1},
     {"target_modules": [1, 2]}],
    ids=str,
)  # fmt: skip
def test_options_of_a_wrong_kind(bank, folder, fields):
    edit_config(folder, **fields)
    with pytest.raises(AdapterError):
        bank.mount("a", folder)
    assert bank.names == ()


def test_a_strangers_regular_expression_is_not_run(bank, folder):
    edit_config(folder, target_modules="(m|mo|mod|mode|model|.)*(x+x+)+y")
    assert bank.mount("a", folder) == 1


def test_the_base_an_adapter_records(tiny_model, folder):
    of_base = fingerprint.fingerprint(tiny_model)
    bank = new_bank(tiny_model, base_fingerprint=of_base)
    assert bank.mount("unrecorded", folder) == 1
    before = load_file(folder / "adapter_model.safetensors")
    fingerprint.record(folder, of_base)
    after = load_file(folder / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert bank.mount("recorded", folder) == 2
    fingerprint.record(folder, "0" * 64)
    with pytest.raises(MismatchedAdapterError, match="was trained on the base model 000"):
        bank.mount("other", folder)
    assert new_bank(tiny_model).mount("unasked", folder) == 1


def test_fingerprint_tells_models_apart_and_dtypes_not(tiny_model, tiny_config):
    first = fingerprint.fingerprint(tiny_model)
    rounded = copy.deepcopy(tiny_model).bfloat16()
    assert fingerprint.fingerprint(rounded) == first
    assert fingerprint.fingerprint(rounded.float()) == first
    tuned = copy.deepcopy(tiny_model)
    with torch.no_grad():
        tuned.model.layers[1].mlp.up_proj.weight += 0.01
    assert fingerprint.fingerprint(tuned) != first
