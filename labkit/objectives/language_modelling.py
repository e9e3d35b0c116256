"""Next-token losses of a causal language model, in nats."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

IGNORE_INDEX = -100


def shift_labels(labels: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """The label each position must predict: ``shifted[:, t] = labels[:, t + 1]``.

    Args:
        labels: Token ids aligned with the inputs; ``IGNORE_INDEX`` where no loss is wanted.

    Returns:
        The labels moved one to the left; the last position predicts nothing (``IGNORE_INDEX``).
    """
    shifted = torch.full_like(labels, IGNORE_INDEX)
    shifted[:, :-1] = labels[:, 1:]
    return shifted


def cross_entropy(
    logits: Float[Tensor, "B T V"], labels: Int[Tensor, "B T"]
) -> tuple[Float[Tensor, ""], int]:
    """Summed next-token cross-entropy, ``-sum_t log softmax(logits[t])[labels[t + 1]]``.

    The sum comes back beside its count, not the mean: batches of unequal length can then be
    accumulated exactly, by adding sums and dividing once by all tokens. The softmax is computed
    in float32 whatever the logits' type.

    Args:
        logits: Scores of position t for the token at t + 1.
        labels: Token ids aligned with the inputs (the shift happens here);
            ``IGNORE_INDEX`` where no loss is wanted.

    Returns:
        The sum over predicted tokens in nats (0 when there are none), and their number.
    """
    targets = shift_labels(labels)
    loss_sum = functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )
    return loss_sum, int((targets != IGNORE_INDEX).sum())


def token_log_probs(
    logits: Float[Tensor, "B T V"], ids: Int[Tensor, "B T"]
) -> Float[Tensor, "B T-1"]:
    """Log-probability of every token given those before it, ``log p(ids[t + 1] | ids[:t + 1])``.

    Args:
        logits: Scores of position t for the token at t + 1.
        ids: The tokens that were fed; no position is left out.

    Returns:
        float32 log-probabilities in nats of ``ids[:, 1:]``.
    """
    log_probs = functional.log_softmax(logits[:, :-1].float(), dim=-1)  # (B, T-1, V)
    return log_probs.gather(-1, ids[:, 1:, None]).squeeze(-1)
