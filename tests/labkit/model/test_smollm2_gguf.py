"""The GGUF file as transformers reads it, whose unpacking, row order and names are its own."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from labkit.model import zoo
from labkit.model.gguf_file import read_gguf
from labkit.model.huggingface import from_state

TEXTS = [
    "Hello, world!",
    "def f(x):\n\treturn x ** 2  # squared\n",
    "It's 12:45 on 31/12/1999; pi = 3.14159.",
    "naïve café — 你好，世界 🙂🙃",
    "<|im_start|>user\nhi<|im_end|>\n",
    "   spaces   and\n\n\nlines  ",
    "",
]


@torch.no_grad()
def test_gguf_equals_transformers_own_reading(smollm2: zoo.Loaded) -> None:
    path = zoo.smollm2_gguf()
    config, state, tokenizer = read_gguf(path)
    model = from_state(config, state, source=path)
    peer = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    ids = torch.tensor([tokenizer.encode("The capital of France is")])
    got, expected = model(ids), peer(ids).logits
    assert (got - expected).abs().max() / expected.abs().max() < 1e-4
    cached = smollm2.model.state_dict()
    assert all(torch.equal(w.bfloat16().float(), cached[name]) for name, w in state.items())


def test_tokenizer_equals_transformers_own_reading(smollm2: zoo.Loaded) -> None:
    path = zoo.smollm2_gguf()
    peer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in TEXTS:
        expected = peer.encode(text, add_special_tokens=False)
        assert smollm2.tokenizer.encode(text) == expected
    assert smollm2.tokenizer.chat_template == peer.chat_template
    assert smollm2.tokenizer.eos_id == peer.eos_token_id
