"""GGUF files (llama.cpp's format) of Llama-family models, dequantized to float32.

Three things differ from a Hugging Face checkpoint: tensor names, the packing of the weights, and
the row order of Q and K, which GGUF stores for RoPE over neighbouring pairs.
"""

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from torch import Tensor

from labkit.model.config import ModelConfig
from labkit.model.tokenizer import Tokenizer
from labkit.runtime.errors import CorruptFileError

_MAGIC = b"GGUF"
_CONTROL, _USER_DEFINED = 3, 4  # tokenizer.ggml.token_type
_OUTER_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def read_gguf(path: Path | str) -> tuple[ModelConfig, dict[str, Tensor], Tokenizer]:
    """Configuration, float32 weights under Hugging Face names, and tokenizer of a GGUF file.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFileError: the file is truncated or damaged.
        ValueError: the file holds another architecture or kind of tokenizer.
    """
    path = Path(path)
    reader = _open(path)
    try:
        fields = {name: field.contents() for name, field in reader.fields.items()}
        packed = {tensor.name: tensor for tensor in reader.tensors}
        config = _config(fields, packed)
        state = {
            _hugging_face_name(name): _unpack(tensor, config) for name, tensor in packed.items()
        }
        return config, state, _tokenizer(fields)
    except (KeyError, IndexError, TypeError) as error:
        raise CorruptFileError(f"{path} lacks or garbles {error}") from error


def _open(path: Path) -> gguf.GGUFReader:
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise CorruptFileError(f"{path} is no GGUF file: it does not begin with 'GGUF'")
    try:
        return gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise CorruptFileError(f"{path} is truncated or damaged: {error}") from error


def _config(fields: dict[str, Any], packed: dict[str, Any]) -> ModelConfig:
    architecture = fields["general.architecture"]
    if architecture != "llama":
        raise ValueError(f"architecture {architecture!r} is not supported: only 'llama' is")
    if "llama.rope.scaling.type" in fields and fields["llama.rope.scaling.type"] != "none":
        raise ValueError(f"rope scaling {fields['llama.rope.scaling.type']!r} is not supported")
    heads = fields["llama.attention.head_count"]
    width = fields["llama.embedding_length"]
    return ModelConfig(
        vocab_size=int(packed["token_embd.weight"].shape[1]),
        width=width,
        num_layers=fields["llama.block_count"],
        num_heads=heads,
        num_kv_heads=fields.get("llama.attention.head_count_kv", heads),
        head_width=fields.get("llama.rope.dimension_count", width // heads),
        ffn_width=fields["llama.feed_forward_length"],
        rope_theta=fields.get("llama.rope.freq_base", 10_000.0),
        # float32 in the file: 9.9999997e-06 is meant to be 1e-05
        norm_eps=float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        max_length=fields["llama.context_length"],
        tie_embeddings="output.weight" not in packed,
    )


def _hugging_face_name(name: str) -> str:
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if match is None or match[2] not in _BLOCK_NAMES:
        raise ValueError(f"tensor {name!r} has no place in a Llama model")
    return f"model.layers.{match[1]}.{_BLOCK_NAMES[match[2]]}.weight"


def _unpack(tensor: Any, config: ModelConfig) -> Tensor:
    values = torch.from_numpy(
        np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    )
    if tensor.name.endswith("attn_q.weight"):
        return to_half_split(values, config.num_heads)
    if tensor.name.endswith("attn_k.weight"):
        return to_half_split(values, config.num_kv_heads)
    return values


def to_half_split(weight: Tensor, num_heads: int) -> Tensor:
    """Reorders each head's rows from neighbouring pairs (0, 1), (2, 3) to halves (0, K/2), ...

    Forgotten, the model still speaks, badly: both orders give valid rotations.
    """
    rows, columns = weight.shape
    pairs = weight.view(num_heads, rows // num_heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)


def _tokenizer(fields: dict[str, Any]) -> Tokenizer:
    if fields["tokenizer.ggml.model"] != "gpt2":
        raise ValueError(
            f"tokenizer {fields['tokenizer.ggml.model']!r} is not supported: only byte-level BPE is"
        )
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = _pre_tokenizer(fields.get("tokenizer.ggml.pre", "gpt-2"))
    backend.decoder = decoders.ByteLevel()
    kinds = list(zip(tokens, fields["tokenizer.ggml.token_type"], strict=True))
    backend.add_special_tokens(_added(kinds, _CONTROL, special=True))
    backend.add_tokens(_added(kinds, _USER_DEFINED, special=False))

    def special(name: str) -> str | None:
        index = fields.get(f"tokenizer.ggml.{name}_token_id")
        return None if index is None else tokens[index]

    return Tokenizer(
        backend,
        eos_token=tokens[fields["tokenizer.ggml.eos_token_id"]],
        pad_token=special("padding"),
        bos_token=special("bos"),
        unk_token=special("unknown"),
        chat_template=fields.get("tokenizer.chat_template"),
    )


def _added(kinds: list[tuple[str, int]], kind: int, *, special: bool) -> list[AddedToken]:
    return [AddedToken(text, special=special, normalized=False) for text, k in kinds if k == kind]


def _pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    """How text is cut before merging. SmolLM cuts every digit off first, then as GPT-2 does."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name == "gpt-2":
        return byte_level
    if name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, byte_level])
    raise ValueError(f"pre-tokenizer {name!r} is not supported: only 'gpt-2' and 'smollm' are")
