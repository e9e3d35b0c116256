"""A small GGUF file written with the `gguf` package and read back; damage refused by name."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from labkit.model import gguf_file, minillm
from labkit.model.config import ModelConfig
from labkit.model.huggingface import from_state
from labkit.model.tokenizer import Tokenizer
from labkit.runtime.errors import CorruptFileError


def to_pairs(weight: Tensor, num_heads: int) -> np.ndarray:
    """Row by row, the order llama.cpp stores: pair i of a head is rows 2i and 2i + 1."""
    rows = weight.shape[0] // num_heads
    source = [
        head * rows + i + half * rows // 2
        for head in range(num_heads)
        for i in range(rows // 2)
        for half in (0, 1)
    ]
    return weight.numpy()[source]


def write_gguf(path: Path, model: minillm.MiniLLM, tokenizer: Tokenizer, pre: str) -> None:
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_length)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.ffn_width)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_rope_dimension_count(config.head_width)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    vocabulary = sorted(tokenizer.backend.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([3 if token.startswith("<|") else 1 for token, _ in vocabulary])
    writer.add_token_merges([f"{vocabulary[70][0]} {vocabulary[71][0]}"])
    writer.add_eos_token_id(tokenizer.eos_id)
    writer.add_pad_token_id(tokenizer.pad_id)
    writer.add_chat_template(tokenizer.chat_template)
    theirs = {ours: name for name, ours in gguf_file._BLOCK_NAMES.items()}
    outer = {ours: name for name, ours in gguf_file._OUTER_NAMES.items()}
    for name, tensor in model.state_dict().items():
        if name in outer:
            if name != "lm_head.weight" or not config.tie_embeddings:
                writer.add_tensor(outer[name], tensor.numpy())
            continue
        _, _, layer, part = name.removesuffix(".weight").split(".", 3)
        heads = {"self_attn.q_proj": config.num_heads, "self_attn.k_proj": config.num_kv_heads}
        values = to_pairs(tensor, heads[part]) if part in heads else tensor.numpy()
        writer.add_tensor(f"blk.{layer}.{theirs[part]}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def path(tiny_model: minillm.MiniLLM, tiny_tokenizer: Tokenizer, tmp_path: Path) -> Path:
    write_gguf(tmp_path / "tiny.gguf", tiny_model, tiny_tokenizer, "gpt-2")
    return tmp_path / "tiny.gguf"


def test_reads_back_what_was_written(
    path: Path, tiny_model: minillm.MiniLLM, tiny_tokenizer: Tokenizer
) -> None:
    config, state, tokenizer = gguf_file.read_gguf(path)
    assert config == tiny_model.config
    expected = tiny_model.state_dict()
    assert state.keys() == expected.keys() - {"lm_head.weight"}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())
    text = "abcdefgh 12 <|im_end|>"
    assert tokenizer.encode(text) == tiny_tokenizer.encode(text)
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_token) == (95, 96, None)
    from_state(config, state, source=path)


def test_reads_an_untied_head(
    tiny_config: ModelConfig, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    from dataclasses import replace

    model = minillm.MiniLLM(replace(tiny_config, tie_embeddings=False))
    write_gguf(tmp_path / "untied.gguf", model, tiny_tokenizer, "gpt-2")
    config, state, _ = gguf_file.read_gguf(tmp_path / "untied.gguf")
    assert config == model.config
    assert torch.equal(state["lm_head.weight"], model.lm_head.weight)


@pytest.mark.parametrize("kept", [0, 3, 20, 700, 0.3, 0.9, -4])
def test_truncated_file_is_named(path: Path, kept: float) -> None:
    whole = path.read_bytes()
    end = int(kept * len(whole)) if isinstance(kept, float) else kept
    path.write_bytes(whole[:end])
    with pytest.raises(CorruptFileError, match=r"tiny\.gguf"):
        gguf_file.read_gguf(path)


@pytest.mark.parametrize("at", [0, 4, 9, 17, 25, 60, 300])
def test_damaged_header_is_named(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + 8] = b"\xfe" * 8
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"tiny\.gguf"):
        gguf_file.read_gguf(path)


def test_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.gguf"):
        gguf_file.read_gguf(tmp_path / "none.gguf")


def test_unknown_pre_tokenizer_is_refused(
    tiny_model: minillm.MiniLLM, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    write_gguf(tmp_path / "odd.gguf", tiny_model, tiny_tokenizer, "tekken")
    with pytest.raises(ValueError, match="'tekken' is not supported"):
        gguf_file.read_gguf(tmp_path / "odd.gguf")


def test_smollm_cuts_digits_off_one_by_one() -> None:
    cut = gguf_file._pre_tokenizer("smollm").pre_tokenize_str("in 1984  7s")
    assert [text.replace("Ġ", "_") for text, _ in cut] == [
        *("in", "_", "1", "9", "8", "4", "__", "7", "s")
    ]
