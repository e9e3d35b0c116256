"""Gradient accumulation: several small batches that add up to the gradient of a large one."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from labkit.data.batch import IGNORE_INDEX, TokenBatch
from labkit.training.forward import causal_lm_loss

Loss = Callable[[nn.Module, TokenBatch], tuple[Tensor, int]]


def accumulate(
    model: nn.Module,
    micro_batches: Sequence[TokenBatch],
    *,
    loss: Loss = causal_lm_loss,
    scaled: Callable[[Tensor], Tensor] = lambda x: x,
) -> tuple[float, int]:
    """Leave in `.grad` the gradient of the mean loss over all tokens of all micro-batches.

    sum_i loss_i / sum_i n_i, and not the mean of loss_i / n_i: that would weigh the tokens of a
    short micro-batch more. One micro-batch's activations are held at a time.

    Differs: `training.loop` divides once at the end. Here each summed loss is divided before its
    backward, by tokens counted beforehand: in float16 the gradient of a sum overflows earlier.

    Args:
        model: Its gradients must be cleared.
        micro_batches: Of any lengths; one without a token to predict adds nothing.
        loss: From model and batch to (summed loss in nats, predicted tokens).
        scaled: Applied to each loss before its backward, as `LossScaler.scaled`.

    Returns:
        Mean loss a predicted token in nats, unscaled, and the number of tokens.

    Raises:
        ValueError: There is no token to predict, gradients are left from before, or the loss
            counts other tokens than those with a label.
    """
    if any(parameter.grad is not None for parameter in model.parameters()):
        raise ValueError("gradients are left from before: zero_grad(set_to_none=True) first")
    counts = [predicted_tokens(batch) for batch in micro_batches]
    tokens, total = sum(counts), 0.0
    if tokens == 0:
        raise ValueError("the micro-batches have no token to predict: all labels are ignored")
    for batch, expected in zip(micro_batches, counts, strict=True):
        if expected == 0:
            continue
        loss_sum, count = loss(model, batch)
        if count != expected:
            raise ValueError(f"the loss counted {count} tokens where {expected} have a label")
        scaled(loss_sum / tokens).backward()
        total += loss_sum.item()
    return total / tokens, tokens


def predicted_tokens(batch: TokenBatch) -> int:
    """Labels that a position before them predicts: the first column has none."""
    return int((batch.labels[:, 1:] != IGNORE_INDEX).sum())


def token_weights(counts: Sequence[int]) -> list[float]:
    """n_i / sum n: what a micro-batch's *mean* loss counts in the mean over all tokens.

    Raises:
        ValueError: No token at all.
    """
    if not sum(counts):
        raise ValueError(f"counts={list(counts)} have no token to predict")
    return [count / sum(counts) for count in counts]


def split(batch: TokenBatch, rows: int) -> Iterator[TokenBatch]:
    """Micro-batches of some rows each, without the columns of padding that all of them share.

    Labels say where a row ends, so that prompts without labels behind the last label are cut too.

    Args:
        batch: Right-padded, not packed.
        rows: Of a micro-batch; the last may have fewer.

    Raises:
        ValueError: The batch is packed, or `rows` below 1.
    """
    if batch.document_ids is not None or batch.positions is not None:
        raise ValueError("a packed batch has no padding to cut: split the list of documents")
    if rows < 1:
        raise ValueError(f"rows={rows} must be at least 1")
    for ids, labels in zip(batch.ids.split(rows), batch.labels.split(rows), strict=True):
        used = (labels != IGNORE_INDEX).any(0).nonzero()
        length = int(used.max()) + 1 if used.numel() else 1
        yield TokenBatch(ids=ids[:, :length], labels=labels[:, :length])


def signed_drift(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Mean of ours - theirs over the steps of two runs.

    Rounding has no sign and averages out; a wrong weight of the micro-batches pulls one way. So the
    mean difference sees what single differences hide in their noise.

    Raises:
        ValueError: The runs have different lengths, or none.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"runs of {len(ours)} and {len(theirs)} steps cannot be compared")
    gaps = torch.tensor(ours, dtype=torch.float64) - torch.tensor(theirs, dtype=torch.float64)
    return float(gaps.mean())
