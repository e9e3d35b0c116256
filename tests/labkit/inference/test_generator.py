"""A generator says what the functions say, and loads what a training wrote."""

import json
from pathlib import Path

import pytest
import torch

from labkit.inference import generate
from labkit.inference.generator import Generator
from labkit.inference.sampling import SamplingConfig
from labkit.model import zoo
from labkit.tuning import adapter_files, lora

CONFIG = SamplingConfig(temperature=0.8, top_k=30, max_new_tokens=12, seed=3)
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def adapter(byte_folder: Path, tmp_path: Path) -> Path:
    loaded = zoo.load(byte_folder, dtype="float32", device="cpu")
    config = lora.LoraConfig(rank=2, target_modules="all-linear")
    lora.apply(loaded.model, config)
    with torch.no_grad():
        for layer in lora.layers(loaded.model).values():
            layer.lora_B.weight.normal_(generator=torch.Generator().manual_seed(1))
    adapter_files.save(loaded.model, tmp_path / "adapter", config, str(byte_folder))
    return tmp_path / "adapter"


def test_it_says_what_the_functions_say(byte_loaded: zoo.Loaded, byte_folder: Path) -> None:
    model, tokenizer = byte_loaded.model, byte_loaded.tokenizer
    made = Generator.load(byte_folder, CONFIG, dtype="float32", device="cpu")
    for generator in (made, Generator(model, tokenizer, CONFIG)):
        expected = generate.generate(model, tokenizer, ["Hi", "Yo"], CONFIG)
        assert generator.generate(["Hi", "Yo"]) == expected
        assert "".join(generator.stream("Hi")) == expected[0].text
        assert generator.chat(MESSAGES) == generate.chat(model, tokenizer, MESSAGES, CONFIG)
    assert Generator(model, tokenizer).config == SamplingConfig()


def test_an_adapter_brings_its_base(byte_folder: Path, adapter: Path) -> None:
    made = Generator.load(adapter, CONFIG, dtype="float32", device="cpu")
    loaded = zoo.load(byte_folder, dtype="float32", device="cpu")
    plain = Generator(loaded.model, loaded.tokenizer, CONFIG).generate("Hi")
    tuned = adapter_files.load(loaded.model, adapter)
    assert made.generate("Hi") == Generator(tuned, loaded.tokenizer, CONFIG).generate("Hi")
    assert made.generate("Hi") != plain


def test_an_adapter_without_a_base_is_refused(adapter: Path) -> None:
    path = adapter / "adapter_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "base_model_name_or_path": None}))
    with pytest.raises(ValueError, match="does not name its base model"):
        Generator.load(adapter)
