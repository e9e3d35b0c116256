"""labkit's pretraining in the shapes that lab 02's exercises ask for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from labkit.data import batch, bpe, packing
from labkit.model.config import ModelConfig
from labkit.model.minillm import attention_mask
from labkit.objectives.language_modelling import IGNORE_INDEX, cross_entropy
from labkit.training import clipping, loop, schedule
from labkit.training.config import TrainConfig

Words = list[list[int]]
Moments = dict[str, tuple[Tensor, Tensor]]


def merge_step(words: Words, times: list[int], new: int) -> tuple[tuple[int, int] | None, Words]:
    """One turn of labkit's trainer."""
    pairs = bpe._PairCounts([list(word) for word in words], list(times))
    best = pairs.pop_best()
    if best is not None:
        pairs.merge(best, new)
    return best, pairs.words


def encode_word(word: list[int], merges: Sequence[tuple[int, int, int]]) -> list[int]:
    """labkit's heap of ranks, told these merges; its first 256 tokens are the bytes."""
    coder = bpe.BPE(())
    coder._ranks = {(a, b): (rank, new) for rank, (a, b, new) in enumerate(merges)}
    return list(coder._merge_word(b"".join(coder.tokens[token] for token in word)))


def pack_rows(
    documents: list[list[int]], length: int, pad_id: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """labkit's rows of the pieces that have something to learn, their padding marked."""
    pieces = [
        piece
        for document in documents
        if document
        for piece in batch.windows(document, length=length)
        if len(piece.ids) > 1
    ]
    rows = packing.stack(packing.pack(pieces, length=length, pad_id=pad_id))
    assert rows.document_ids is not None
    assert rows.positions is not None
    groups = packing.first_fit(pieces, length)
    filled = torch.tensor([sum(len(pieces[i].ids) for i in group) for group in groups])
    padding = torch.arange(length) >= filled[:, None]
    positions = rows.positions.masked_fill(padding, 0)
    return rows.ids, rows.labels, rows.document_ids.masked_fill(padding, -1), positions


def within_documents(logits: Tensor, ids: Tensor, documents: Tensor) -> tuple[Tensor, Tensor, int]:
    """labkit's mask and its loss over labels that no document shares."""
    mask = attention_mask(ids, 0, None, documents)
    assert mask is not None
    first = torch.ones_like(documents, dtype=torch.bool)
    first[:, 1:] = documents[:, 1:] != documents[:, :-1]
    loss, count = cross_entropy(logits, ids.masked_fill(first | (documents < 0), IGNORE_INDEX))
    return mask[:, 0], loss, count


def learning_rate(step: int, peak: float, steps: int, warmup: int, stable: int) -> float:
    """labkit's schedule, a step ahead while it rises and `stable` steps behind while it falls."""
    if step >= steps:
        return 0.0
    if step < warmup:
        return schedule.cosine_with_warmup(step + 1, lr=peak, steps=steps, warmup_steps=warmup)
    late = max(warmup, step - stable)
    return schedule.cosine_with_warmup(late, lr=peak, steps=steps - stable, warmup_steps=warmup)


def optimizer_step(
    weights: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor | None],
    moments: Moments,
    step: int,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    max_norm: float,
) -> tuple[dict[str, Tensor], Moments, float]:
    """labkit's optimizer and clipping over parameters made for one step."""
    config = TrainConfig(steps=1, lr=lr, weight_decay=weight_decay, betas=betas)
    model = nn.ParameterList([weight.clone() for weight in weights.values()])
    parameters = dict(zip(weights, model, strict=True))
    optimizer = loop.build_optimizer(model, config)
    for name, parameter in parameters.items():
        gradient = gradients[name]
        parameter.grad = None if gradient is None else gradient.clone()
        if name in moments:
            first, second = (moment.clone() for moment in moments[name])
            taken = torch.tensor(float(step - 1))
            optimizer.state[parameter] = {"step": taken, "exp_avg": first, "exp_avg_sq": second}
    norm = clipping.clip_gradients(parameters.values(), max_norm)
    optimizer.step()
    states = {name: optimizer.state.get(p, {}) for name, p in parameters.items()}
    found = {n: (s["exp_avg"], s["exp_avg_sq"]) for n, s in states.items() if s}
    return {name: p.detach() for name, p in parameters.items()}, found, norm.item()


def training_flops(
    config: Any, length: int, causal: bool = False, recompute: bool = False
) -> tuple[int, float]:
    """From labkit's count of parameters; `test_lab02_pretraining` compares it with torch's."""
    names = ("vocab_size", "width", "num_layers", "num_heads", "num_kv_heads", "head_width")
    own = ModelConfig(
        **{name: getattr(config, name) for name in (*names, "ffn_width", "tie_embeddings")}
    )
    table = own.vocab_size * own.width
    tables = table if own.tie_embeddings else 2 * table
    blocks = own.num_parameters - tables - own.width * (2 * own.num_layers + 1)
    pairs = length * (length + 1) // 2 if causal else length**2
    attention = 4 * own.num_layers * own.num_heads * own.head_width * pairs
    forward = 2 * length * blocks + attention
    operations = 3 * (forward + 2 * length * table) + (forward if recompute else 0)
    return operations, 6 * own.num_parameters * length / operations


def diagnose(training: Any) -> str:
    """Two runs to the end, for what is learnt, and two short ones, for how fast."""
    end = training.train(torch.tensor([[1, 2], [1, 3]]), 5.0, 1, 60)[-1]
    if end < 0.5:
        return "not_shifted"
    if training.train(torch.tensor([[1, 2], [1, 0]]), 5.0, 1, 60)[-1] > 0.5:
        return "padding_learnt"
    one = torch.tensor([[1, 2]])
    at_once, slowly = (-training.train(one, 0.01, warmup, 3).diff() for warmup in (1, 10))
    if at_once[1] > 1.5 * at_once[0]:
        return "gradients_kept"
    return "healthy" if slowly[1] > 1.5 * slowly[0] else "warmup_skipped"


IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {
    "merge_step": merge_step,
    "encode_word": encode_word,
    "pack_rows": pack_rows,
    "within_documents": within_documents,
    "learning_rate": learning_rate,
    "optimizer_step": optimizer_step,
    "training_flops": training_flops,
    "diagnose": diagnose,
}
