"""Folders to and from transformers, and damaged ones refused by name."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from labkit.model import minillm
from labkit.model.config import ModelConfig
from labkit.model.huggingface import load_folder, save_folder
from labkit.model.tokenizer import Tokenizer
from labkit.runtime.errors import CorruptFileError

IDS = torch.arange(3, 16)[None]


@pytest.fixture
def folder(tiny_model: minillm.MiniLLM, tiny_tokenizer: Tokenizer, tmp_path: Path) -> Path:
    save_folder(tiny_model, tiny_tokenizer, tmp_path / "model")
    return tmp_path / "model"


def _load(folder: Path) -> minillm.MiniLLM:
    return load_folder(folder, dtype="float32", device="cpu")[0]


@torch.no_grad()
def test_round_trip_is_exact(folder: Path, tiny_model: minillm.MiniLLM) -> None:
    model, tokenizer = load_folder(folder, dtype="float32", device="cpu")
    assert model.config == tiny_model.config
    assert not model.training
    assert torch.equal(model(IDS), tiny_model(IDS))
    assert tokenizer.eos_id == 95
    assert model.lm_head.weight is model.model.embed_tokens.weight


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_loads_our_folder(
    tiny_config: ModelConfig, tiny_tokenizer: Tokenizer, tmp_path: Path, tied: bool
) -> None:
    from transformers import AutoModelForCausalLM

    config = replace(tiny_config, tie_embeddings=tied, rope_theta=700.0, norm_eps=0.01)
    model = minillm.MiniLLM(config).eval()
    save_folder(model, tiny_tokenizer, tmp_path)
    peer, report = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values())
    assert peer.generation_config.eos_token_id == tiny_tokenizer.eos_id
    torch.testing.assert_close(model(IDS), peer(IDS).logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard", ["1GB", "8KB"])
def test_we_load_a_folder_that_transformers_saved(
    tiny_tokenizer: Tokenizer, tmp_path: Path, tied: bool, shard: str
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    peer = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=97,
            hidden_size=24,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=3,
            intermediate_size=40,
            tie_word_embeddings=tied,
            rope_parameters={"rope_theta": 900.0, "rope_type": "default"},
        )
    ).eval()
    peer.save_pretrained(tmp_path, max_shard_size=shard)
    tiny_tokenizer.save(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "8KB")
    torch.testing.assert_close(_load(tmp_path)(IDS), peer(IDS).logits, rtol=1e-4, atol=1e-5)


def test_old_spelling_of_the_configuration(folder: Path, tiny_config: ModelConfig) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    del content["rope_parameters"], content["head_dim"]
    path.write_text(json.dumps({**content, "rope_theta": 500}))
    assert _load(folder).config == replace(tiny_config, rope_theta=500.0)


def test_dtype_is_converted(folder: Path) -> None:
    model, _ = load_folder(folder, dtype="bfloat16", device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _garble(path: Path) -> None:
    path.write_bytes(b"\xff\x00" * 50)


@pytest.mark.parametrize("damage", [_truncate, _empty, _garble])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_damaged_file_is_named(folder: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(folder / name)
    with pytest.raises(CorruptFileError, match=name):
        _load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_absent_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        _load(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_hidden_layers": 4}, "layers.3.*is missing"),
        ({"num_hidden_layers": 2}, "layers.2.*is unexpected"),
        ({"intermediate_size": 41}, r"shape \(24, 40\) instead of \(24, 41\)"),
        ({"tie_word_embeddings": False}, "lm_head.weight is missing"),
        ({"num_key_value_heads": 4}, "num_kv_heads=4 must divide num_heads=6"),
        ({"hidden_size": "wide"}, "config.json is not usable"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    folder: Path, change: dict[str, object], words: str
) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CorruptFileError, match=words) as caught:
        _load(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "qwen2"}, "model_type='qwen2'"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "'llama3'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "'linear'"),
    ],
)
def test_other_architectures_are_refused(
    folder: Path, change: dict[str, object], words: str
) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=words) as caught:
        _load(folder)
    assert not isinstance(caught.value, CorruptFileError)


def test_index_without_its_map_is_refused(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CorruptFileError, match=r"index\.json has no weight_map"):
        _load(folder)


def test_cut_short_saving_is_refused_not_mixed(
    folder: Path,
    tiny_model: minillm.MiniLLM,
    tiny_tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folder / "README.md").write_text("stays")

    def fail(folder: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(tiny_tokenizer, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_folder(tiny_model, tiny_tokenizer, folder)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        _load(folder)
    assert (folder / "README.md").read_text() == "stays"


def test_replaced_layers_are_not_saved(
    tiny_model: minillm.MiniLLM, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tiny_model.model.layers[1].mlp.up_proj = torch.nn.Sequential(torch.nn.Linear(24, 40))
    with pytest.raises(ValueError, match="merge the adapter"):
        save_folder(tiny_model, tiny_tokenizer, tmp_path / "new")
    assert not (tmp_path / "new").exists()
