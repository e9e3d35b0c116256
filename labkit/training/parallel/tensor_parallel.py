"""Tensor parallelism: every matrix of MiniLLM split over the ranks, by heads and by columns.

q, k, v, gate and up are split by rows of their weight (output columns), o and down by columns, so
that a rank computes its heads and its part of the FFN from the whole stream, and one sum puts the
stream together again: one all-reduce per sublayer forward, one backward. With `sequence` the
stream between them is split by positions, and the all-reduce becomes all-gather and
reduce-scatter: as many bytes, 1 / n of the norms' and the residuals' memory.

Paper: arXiv 1909.08053, section 3; sequence parallelism arXiv 2205.05198, section 4.2.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from labkit.model.blocks import Block
from labkit.model.layers import SwiGLU
from labkit.model.minillm import MiniLLM
from labkit.training.parallel import collectives
from labkit.training.parallel.collectives import Group
from labkit.training.parallel.exchanges import (
    copy_to_ranks,
    gather_sequence,
    scatter_sum,
    sum_over_ranks,
)

_SPLITS = (
    ("self_attn", ("q_proj", "k_proj", "v_proj"), "o_proj"),
    ("mlp", ("gate_proj", "up_proj"), "down_proj"),
)
_STREAM_NORMS = ("input_layernorm.", "post_attention_layernorm.", "model.norm.")


class Entering(nn.Module):
    """norm(x), then into the ranks: the input that the column-split linears after it share."""

    def __init__(self, norm: nn.Module, group: Group, sequence: bool) -> None:
        super().__init__()
        self.norm, self.group, self.sequence = norm, group, sequence

    def forward(self, x: Float[Tensor, "B Ts D"]) -> Float[Tensor, "B T D"]:
        y = self.norm(x)
        return (gather_sequence if self.sequence else copy_to_ranks)(y, self.group)


class RowLinear(nn.Module):
    """Sum over ranks of x_r W_r^T, each rank holding the columns of W that meet its part of x."""

    def __init__(self, linear: nn.Linear, group: Group, sequence: bool) -> None:
        super().__init__()
        part = linear.weight.detach().chunk(group.size, dim=1)[group.index]
        self.weight = nn.Parameter(part.clone(memory_format=torch.contiguous_format))
        self.group, self.sequence = group, sequence

    def forward(self, x: Float[Tensor, "B T In"]) -> Float[Tensor, "B Ts D"]:
        y = functional.linear(x, self.weight)
        return (scatter_sum if self.sequence else sum_over_ranks)(y, self.group)


class VocabularyEmbedding(nn.Module):
    """Rows of the embedding split over ranks; each token's comes from the rank that has it."""

    def __init__(self, embedding: nn.Embedding, group: Group, sequence: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(_rows(embedding.weight, group))
        self.start = vocabulary_start(embedding.num_embeddings, group)
        self.group, self.sequence = group, sequence

    def forward(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B Ts D"]:
        local = ids - self.start
        here = (local >= 0) & (local < self.weight.shape[0])
        x = functional.embedding(local.where(here, 0), self.weight) * here[..., None]
        return (scatter_sum if self.sequence else sum_over_ranks)(x, self.group)


def column_linear(linear: nn.Linear, group: Group) -> nn.Linear:
    """This rank's output features of a linear without bias; the input must have entered."""
    part = _rows(linear.weight, group)
    local = nn.Linear(part.shape[1], part.shape[0], bias=False, device="meta")
    local.weight = nn.Parameter(part)
    return local


def vocabulary_start(vocab_size: int, group: Group) -> int:
    """First token of this rank's rows: near-equal parts, the larger ones first."""
    return int(torch.arange(vocab_size).tensor_split(group.size)[group.index][0])


def shard(model: MiniLLM, group: Group, *, sequence: bool = False) -> MiniLLM:
    """Splits a model over the ranks, in place; its logits are then this rank's columns.

    Each rank calls it with the same weights. Afterwards `vocabulary_cross_entropy` is the loss.
    Under `sequence` call `sum_norm_gradients` after backward.

    Returns:
        The same model.

    Raises:
        ValueError: the ranks do not divide heads or FFN, or the model is post-norm or has experts.
    """
    _check_divides(model, group)
    decoder = model.model
    tied = model.config.tie_embeddings
    embedding = VocabularyEmbedding(decoder.embed_tokens, group, sequence)
    model.lm_head = column_linear(model.lm_head, group)
    if tied:
        model.lm_head.weight = embedding.weight
    decoder.register_module("embed_tokens", embedding)
    decoder.register_module("norm", Entering(decoder.norm, group, sequence))
    for block in decoder.layers:
        _shard_block(block, group, sequence)
    return model


def _shard_block(block: nn.Module, group: Group, sequence: bool) -> None:
    for part, columns, rows in _SPLITS:
        module = block.get_submodule(part)
        for name in columns:
            module.register_module(name, column_linear(getattr(module, name), group))
        module.register_module(rows, RowLinear(getattr(module, rows), group, sequence))
    for name in ("input_layernorm", "post_attention_layernorm"):
        block.register_module(name, Entering(block.get_submodule(name), group, sequence))


def _check_divides(model: MiniLLM, group: Group) -> None:
    config, n = model.config, group.size
    for name in ("num_heads", "num_kv_heads", "ffn_width"):
        if getattr(config, name) % n:
            raise ValueError(f"{n} ranks must divide {name}={getattr(config, name)}")
    for block in model.model.layers:
        if not isinstance(block, Block) or not isinstance(block.mlp, SwiGLU):
            raise ValueError(
                "tensor parallelism here splits pre-norm blocks with one SwiGLU; "
                f"this one is {config.norm_position}-norm with moe={config.moe}"
            )


def sum_norm_gradients(model: nn.Module, group: Group) -> None:
    """Under `sequence` a rank's norms see its positions only: sums their gradients, in place.

    One all-reduce for all norms together.
    """
    norms = [p for name, p in model.named_parameters() if any(k in name for k in _STREAM_NORMS)]
    found = [p.grad for p in norms if p.grad is not None]
    flat = collectives.all_reduce(torch.cat([g.flatten() for g in found]), group)
    for gradient, whole in zip(found, flat.split([g.numel() for g in found]), strict=True):
        gradient.copy_(whole.view_as(gradient))


def stream_bytes(B: int, T: int, D: int, num_layers: int, n: int, item_bytes: int) -> float:
    """Bytes a rank sends for the stream in one training step: 4 L + 2 all-reduces of (B, T, D).

    Two per layer forward and two backward, one after the embedding, one before the head. Sequence
    parallelism sends the same, each all-reduce as a reduce-scatter and an all-gather elsewhere.
    """
    return (4 * num_layers + 2) * collectives.all_reduce_bytes(B * T * D * item_bytes, n)


def _rows(weight: Tensor, group: Group) -> Tensor:
    return weight.detach().tensor_split(group.size)[group.index].clone()
