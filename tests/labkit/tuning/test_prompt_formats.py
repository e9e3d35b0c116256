"""Soft prompts in PEFT's files, in both directions."""

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file

from labkit.tuning import adapter_files, lora, prompt_tuning
from labkit.tuning.prompt_tuning import PromptTuningConfig

from .prompts import METHODS, P, every_method, ids, loud_llama, pair, theirs_logits


@every_method
def test_files_are_exact_both_ways(method: str, tmp_path: Path, gen) -> None:
    ours, theirs = pair(method, gen)
    x, config = ids(gen), METHODS[method][1]
    adapter_files.save(ours, tmp_path / "ours", config, "tiny")
    theirs.save_pretrained(tmp_path / "theirs")
    stored = [
        load_file(tmp_path / side / adapter_files.WEIGHTS_NAME) for side in ("ours", "theirs")
    ]
    assert list(stored[0]) == list(stored[1]) == ["prompt_embeddings"]
    torch.testing.assert_close(*(s["prompt_embeddings"] for s in stored), rtol=1e-5, atol=1e-6)
    read = peft.PeftModel.from_pretrained(loud_llama(), str(tmp_path / "ours")).eval()
    got = theirs_logits(read, method, input_ids=x)
    torch.testing.assert_close(got, ours(x).logits, rtol=0, atol=2e-6)
    again = adapter_files.load(loud_llama(), tmp_path / "theirs")
    expected = theirs_logits(theirs, method, input_ids=x)
    torch.testing.assert_close(again(x).logits, expected, rtol=0, atol=2e-6)


def test_a_prompt_of_another_model_is_refused(tmp_path: Path) -> None:
    config = PromptTuningConfig(num_virtual_tokens=P)
    model = prompt_tuning.apply(loud_llama(), config)
    with pytest.raises(ValueError, match="has 3 virtual tokens; the config says 20"):
        adapter_files.save(model, tmp_path, PromptTuningConfig())
    with pytest.raises(ValueError, match="no LoRA adapters"):
        adapter_files.save(model, tmp_path, lora.LoraConfig())
    adapter_files.save(model, tmp_path, config)
    path = tmp_path / adapter_files.CONFIG_NAME
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"num_virtual_tokens": 4}))
    other = loud_llama()
    with pytest.raises(ValueError, match=r"prompt_embeddings: the model takes \(4, 24\)"):
        adapter_files.load(other, tmp_path)
    assert not hasattr(other, "soft_prompt")
    assert all(p.requires_grad for p in other.parameters())
    path.write_text(json.dumps(fields | {"num_transformer_submodules": 2}))
    with pytest.raises(ValueError, match="only decoders"):
        adapter_files.read(tmp_path)
