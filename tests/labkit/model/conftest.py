"""A small tokenizer with every byte in it, for the models that are made up in tests."""

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from labkit.model.tokenizer import CHATML_TEMPLATE, Tokenizer

SPECIALS = ("<|im_start|>", "<|im_end|>", "<|pad|>")


@pytest.fixture
def tiny_tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[: 97 - len(SPECIALS) - 1]
    merge = (alphabet[70], alphabet[71])
    vocabulary = {token: i for i, token in enumerate([*alphabet, "".join(merge)])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[merge]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIALS))
    return Tokenizer(
        backend,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        bos_token="<|im_start|>",
        chat_template=CHATML_TEMPLATE,
    )
