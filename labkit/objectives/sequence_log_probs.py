"""Log-probabilities of responses: what every preference and policy loss is made of."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from labkit.objectives.language_modelling import IGNORE_INDEX, token_log_probs


def counted_log_probs(
    logits: Float[Tensor, "B T V"], labels: Int[Tensor, "B T"]
) -> tuple[Float[Tensor, "B T-1"], Bool[Tensor, "B T-1"]]:
    """Log-probability of every labelled token given those before it, and which tokens count.

    Args:
        logits: Scores of position t for the token at t + 1.
        labels: Token ids aligned with the inputs; ``IGNORE_INDEX`` where a token is not counted
            (the prompt, the padding).

    Returns:
        float32 log-probabilities in nats of ``labels[:, 1:]``, 0 where nothing counts, and the
        mask of those that do.
    """
    counted = labels[:, 1:] != IGNORE_INDEX
    ids = labels.masked_fill(labels == IGNORE_INDEX, 0)  # any token that exists
    return token_log_probs(logits, ids).masked_fill(~counted, 0.0), counted


def sequence_log_probs(
    logits: Float[Tensor, "B T V"], labels: Int[Tensor, "B T"]
) -> tuple[Float[Tensor, "B"], Int[Tensor, "B"]]:
    """``log pi(y | x) = sum_t log pi(y_t | x, y_<t)`` over each row's counted tokens.

    Args:
        logits: Scores of position t for the token at t + 1.
        labels: As for `counted_log_probs`.

    Returns:
        The sums in nats, and how many tokens each one holds: divide by them for a mean a token.
    """
    log_probs, counted = counted_log_probs(logits, labels)
    return log_probs.sum(-1), counted.sum(-1)
