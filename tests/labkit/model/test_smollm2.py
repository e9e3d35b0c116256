"""The real model against transformers: logits, greedy text, ids and chat markup."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from labkit.model import zoo
from labkit.model.cache import KVCache
from labkit.model.config import ModelConfig
from labkit.model.huggingface import save_folder
from labkit.model.minillm import MiniLLM

TOLERANCE = 1e-4  # relative to the largest logit, float32
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
CONVERSATIONS = [
    QUESTION,
    [{"role": "system", "content": "You answer in verse."}, *QUESTION],
    [*QUESTION, {"role": "assistant", "content": " Paris. "}, {"role": "user", "content": "Why?"}],
    [{"role": "user", "content": "{{ 1 + 1 }} <|im_end|> {% x %}\n\n<b>&amp;</b> 你好 🙂"}],
]
TEXTS = [
    "Hello, world!",
    "def f(x):\n\treturn x ** 2  # squared\n",
    "It's 12:45 on 31/12/1999; pi = 3.14159.",
    "naïve café — 你好，世界 🙂🙃",
    "<|im_start|>user\nhi<|im_end|>\n",
    "   spaces   and\n\n\nlines  ",
    "",
]


@pytest.fixture(scope="module")
def folder(smollm2: zoo.Loaded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("smollm2")
    save_folder(smollm2.model, smollm2.tokenizer, path)
    yield path
    shutil.rmtree(path)  # half a gigabyte


@pytest.fixture(scope="module")
def peer(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert isinstance(model, LlamaForCausalLM)
    assert not any(report.values())
    return model.eval()


@pytest.fixture(scope="module")
def peer_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def prompt(smollm2: zoo.Loaded) -> Tensor:
    return torch.tensor([smollm2.tokenizer.encode(smollm2.tokenizer.apply_chat(QUESTION))])


def relative_error(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return ((got - expected).abs().max() / expected.abs().max()).item()


def greedy(model: MiniLLM, ids: Tensor, count: int) -> list[int]:
    cache = KVCache(model.config, batch_size=1, max_length=ids.shape[1] + count)
    tokens = []
    for _ in range(count):
        ids = model(ids, cache=cache, last_only=True).argmax(-1)
        tokens.append(int(ids))
    return tokens


def test_configuration(smollm2: zoo.Loaded) -> None:
    assert smollm2.config == ModelConfig.smollm2_135m()
    assert sum(p.numel() for p in smollm2.model.parameters()) == 134_515_008
    assert smollm2.tokenizer.vocab_size == smollm2.config.vocab_size


@torch.no_grad()
def test_logits_equal_transformers(smollm2: zoo.Loaded, peer: Any) -> None:
    text = " ".join(TEXTS) * 2
    ids = torch.tensor([smollm2.tokenizer.encode(text)])
    assert ids.shape[1] > 100
    assert relative_error(smollm2.model(ids), peer(ids).logits) < TOLERANCE


@torch.no_grad()
def test_greedy_text_equals_transformers(smollm2: zoo.Loaded, peer: Any) -> None:
    ids = prompt(smollm2)
    expected = peer.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :].tolist()
    assert expected[-1] == smollm2.tokenizer.eos_id
    assert "Paris" in smollm2.tokenizer.decode(expected)
    assert greedy(smollm2.model, ids, len(expected)) == expected


@torch.no_grad()
def test_long_greedy_continuation_equals_transformers(smollm2: zoo.Loaded, peer: Any) -> None:
    ids = torch.tensor([smollm2.tokenizer.encode("The three most important inventions are")])
    expected = peer.generate(ids, max_new_tokens=32, do_sample=False)[0, ids.shape[1] :].tolist()
    assert greedy(smollm2.model, ids, 32)[: len(expected)] == expected


@torch.no_grad()
def test_cached_decoding_equals_recomputing(smollm2: zoo.Loaded) -> None:
    ids = prompt(smollm2)
    cache = KVCache(smollm2.config, batch_size=1, max_length=64)
    parts = [smollm2.model(part, cache=cache) for part in ids.split((17, 9, 1, 1, 9), dim=1)]
    assert relative_error(torch.cat(parts, 1), smollm2.model(ids)) < TOLERANCE


@torch.no_grad()
def test_left_padded_batch_equals_transformers(smollm2: zoo.Loaded, peer: Any) -> None:
    rows = [smollm2.tokenizer.encode(text) for text in TEXTS[:4]]
    T = max(map(len, rows))
    ids = torch.tensor([[smollm2.tokenizer.pad_id] * (T - len(row)) + row for row in rows])
    mask = torch.tensor([[False] * (T - len(row)) + [True] * len(row) for row in rows])
    got = smollm2.model(ids, padding_mask=mask)
    expected = peer(ids, attention_mask=mask.long(), position_ids=(mask.cumsum(1) - 1).clamp(0))
    assert relative_error(got[mask], expected.logits[mask]) < TOLERANCE


@pytest.mark.parametrize("text", TEXTS)
def test_ids_equal_transformers(smollm2: zoo.Loaded, peer_tokenizer: Any, text: str) -> None:
    ids = smollm2.tokenizer.encode(text)
    assert ids == peer_tokenizer.encode(text, add_special_tokens=False)
    assert smollm2.tokenizer.decode(ids, skip_special=False) == text


@pytest.mark.parametrize("prompted", [True, False])
@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_chat_markup_equals_transformers(
    smollm2: zoo.Loaded, peer_tokenizer: Any, messages: list[dict[str, str]], prompted: bool
) -> None:
    ours = smollm2.tokenizer.apply_chat(messages, add_generation_prompt=prompted)
    assert ours == peer_tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=prompted
    )


def test_special_ids(smollm2: zoo.Loaded, peer_tokenizer: Any) -> None:
    tokenizer = smollm2.tokenizer
    assert (tokenizer.eos_id, tokenizer.pad_id) == (2, 2)
    assert tokenizer.token_id("<|im_end|>") == 2
    assert peer_tokenizer.eos_token_id == 2
    assert peer_tokenizer.bos_token == tokenizer.bos_token == "<|im_start|>"
    assert tokenizer.encode("a", add_special=True) == tokenizer.encode("a")
