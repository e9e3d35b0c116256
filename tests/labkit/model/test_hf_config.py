"""Each configuration against the transformers class that computes it, in both directions."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from labkit.model import hf_config, minillm
from labkit.model.config import ModelConfig, MoeConfig
from labkit.model.huggingface import load_folder, save_folder
from labkit.model.tokenizer import Tokenizer

VARIANTS = {
    "llama": {},
    "llama, multi-head": {"num_kv_heads": 6},
    "llama, multi-query": {"num_kv_heads": 1},
    "mistral": {"sliding_window": 5},
    "mistral, multi-query": {"sliding_window": 5, "num_kv_heads": 1},
    "mixtral": {"moe": MoeConfig(num_experts=5, top_k=2)},
    "mixtral, window": {"moe": MoeConfig(num_experts=5, top_k=3), "sliding_window": 4},
    "mixtral, one expert": {"moe": MoeConfig(num_experts=3, top_k=1, capacity_factor=1.5)},
    "stablelm": {"norm": "layer"},
}


@pytest.fixture
def ids(gen: torch.Generator) -> Tensor:
    return torch.randint(0, 97, (5, 13), generator=gen)


def _model(config: ModelConfig, gen: torch.Generator) -> minillm.MiniLLM:
    """Large weights, norms and biases off their start: no part may be left out unnoticed."""
    model = minillm.MiniLLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.3 if parameter.ndim == 1 else 0.0, 0.3, generator=gen)
    return model


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_transformers_computes_the_same_from_our_folder(
    name: str,
    tiny_config: ModelConfig,
    tiny_tokenizer: Tokenizer,
    ids: Tensor,
    gen: torch.Generator,
    tmp_path: Path,
) -> None:
    from transformers import AutoModelForCausalLM

    config = replace(tiny_config, norm_eps=0.02, rope_theta=700.0, **VARIANTS[name])
    model = _model(config, gen)
    save_folder(model, tiny_tokenizer, tmp_path)
    peer, report = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values())
    assert peer.config.model_type == name.partition(",")[0]
    expected = peer(ids).logits
    error = (model(ids) - expected).abs().max() / expected.abs().max()
    assert error < 1e-4, f"relative error {error:.2e}"
    again, _ = load_folder(tmp_path, dtype="float32", device="cpu")
    assert again.config == config
    assert torch.equal(again(ids), model(ids))


@pytest.mark.parametrize("name", ["mistral", "mixtral", "stablelm"])
@torch.no_grad()
def test_we_compute_the_same_from_their_folder(
    name: str,
    tiny_config: ModelConfig,
    tiny_tokenizer: Tokenizer,
    ids: Tensor,
    gen: torch.Generator,
    tmp_path: Path,
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = replace(tiny_config, **VARIANTS[name])
    content = hf_config.config_to_json(config, torch.float32)
    peer = AutoModelForCausalLM.from_config(AutoConfig.for_model(**content)).eval()
    for parameter in peer.parameters():
        parameter.normal_(0.1, 0.3, generator=gen)
    peer.save_pretrained(tmp_path)
    tiny_tokenizer.save(tmp_path)
    ours, _ = load_folder(tmp_path, dtype="float32", device="cpu")
    expected = peer(ids).logits
    error = (ours(ids) - expected).abs().max() / expected.abs().max()
    assert error < 1e-4, f"relative error {error:.2e}"


@pytest.mark.parametrize(
    "change",
    [
        {"norm_position": "post"},
        {"norm": "layer", "sliding_window": 5},
        {"norm": "layer", "moe": MoeConfig(num_experts=3)},
        {"norm": "layer", "head_width": 6},
    ],
)
def test_what_no_class_computes_is_refused_and_nothing_written(
    change: dict[str, object],
    tiny_config: ModelConfig,
    tiny_tokenizer: Tokenizer,
    tmp_path: Path,
) -> None:
    model = minillm.MiniLLM(replace(tiny_config, **change))
    with pytest.raises(ValueError, match=r"no Hugging Face class .*checkpoint\.save"):
        save_folder(model, tiny_tokenizer, tmp_path / "made")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("variant", "change", "words"),
    [
        ("mixtral", {"router_jitter_noise": 0.1}, "router_jitter_noise=0.1"),
        ("stablelm", {"use_parallel_residual": True}, "use_parallel_residual=True"),
        ("stablelm", {"use_qkv_bias": True}, "use_qkv_bias=True"),
        ("stablelm", {"rope_parameters": None, "partial_rotary_factor": 0.25}, "factor=0.25"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ("mixtral", {"num_experts_per_tok": 6}, "top_k=6 must lie between 1 and num_experts=5"),
        ("mistral", {"sliding_window": 0}, "sliding_window=0 must be positive"),
    ],
)
def test_what_minillm_does_not_compute_is_refused(
    variant: str, change: dict[str, object], words: str, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    content = hf_config.config_to_json(replace(tiny_config, **VARIANTS[variant]), torch.float32)
    with pytest.raises(ValueError, match=words):
        hf_config.config_from_json({**content, **change}, tmp_path)


def test_what_config_json_leaves_out_is_what_transformers_takes(tiny_config: ModelConfig) -> None:
    from transformers import AutoConfig

    silent = ("sliding_window", "rms_norm_eps", "layer_norm_eps", "num_key_value_heads")
    for name in ("mistral", "mixtral", "stablelm"):
        content = hf_config.config_to_json(
            replace(tiny_config, num_kv_heads=6, **VARIANTS[name]), torch.float32
        )
        content = {key: value for key, value in content.items() if key not in silent}
        ours = hf_config.config_from_json(content, Path("config.json"))
        theirs = AutoConfig.for_model(name)
        assert ours.sliding_window == getattr(theirs, "sliding_window", None)
        eps = theirs.layer_norm_eps if name == "stablelm" else theirs.rms_norm_eps
        assert ours.norm_eps == eps


def test_names_go_there_and_back(tiny_config: ModelConfig) -> None:
    model = minillm.MiniLLM(replace(tiny_config, moe=MoeConfig(num_experts=3)))
    names = list(model.state_dict())
    hub = [hf_config.hub_name(name) for name in names]
    assert [hf_config.own_name(name) for name in hub] == names
    assert "model.layers.1.block_sparse_moe.experts.2.w3.weight" in hub
    assert not any("router" in name or "mlp" in name for name in hub)
