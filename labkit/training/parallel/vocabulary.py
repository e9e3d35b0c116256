"""Next-token loss of logits whose columns lie on different ranks, which nobody ever gathers.

Paper: arXiv 1909.08053, section 3: the cross-entropy is fused with the parallel logits, so that
B T scalars travel instead of B T V.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labkit.objectives.language_modelling import IGNORE_INDEX, shift_labels
from labkit.training.parallel import collectives
from labkit.training.parallel.collectives import Group
from labkit.training.parallel.tensor_parallel import vocabulary_start


def vocabulary_cross_entropy(
    logits: Float[Tensor, "B T Vn"],
    labels: Int[Tensor, "B T"],
    vocab_size: int,
    group: Group,
) -> tuple[Float[Tensor, ""], int]:
    """Summed cross-entropy, as `objectives.language_modelling.cross_entropy` of whole logits.

    Each rank sends three all-reduces of B T float32: the maximum, the sum of exponentials, the
    target's logit.

    Args:
        logits: this rank's columns.
        labels: the same on every rank, aligned with the inputs (the shift happens here).
        vocab_size: V.
        group: the ranks that share the vocabulary.

    Returns:
        The sum in nats, and the number of predicted tokens; the same on every rank.
    """
    targets = shift_labels(labels)
    start = vocabulary_start(vocab_size, group)
    losses: Tensor = _CrossEntropy.apply(logits.float(), targets, start, group)
    return losses.sum(), int((targets != IGNORE_INDEX).sum())


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, start: int, group: Group) -> Tensor:
        top = collectives.all_reduce(logits.amax(-1), group, torch.maximum)
        exponentials = (logits - top[..., None]).exp()
        total = collectives.all_reduce(exponentials.sum(-1), group)
        local = targets - start
        here = (local >= 0) & (local < logits.shape[-1])
        place = local.where(here, 0)
        found = logits.gather(-1, place[..., None]).squeeze(-1) * here
        target_logit = collectives.all_reduce(found.contiguous(), group)
        counted = targets != IGNORE_INDEX
        ctx.save_for_backward(exponentials / total[..., None], place, here, counted)
        return (total.log() + top - target_logit) * counted

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        probabilities, place, here, counted = ctx.saved_tensors
        one_hot = torch.zeros_like(probabilities)
        one_hot.scatter_(-1, place[..., None], here[..., None].to(one_hot.dtype))
        return (probabilities - one_hot) * (gradient * counted)[..., None], None, None, None
