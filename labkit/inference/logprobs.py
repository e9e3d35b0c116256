"""Log-probabilities of tokens, and of the likeliest ones beside them."""

from jaxtyping import Float, Int
from torch import Tensor

TopTokens = tuple[tuple[int, float], ...]
CHUNK = 256  # rows whose (V,) log-probabilities are held at once


def token_logprobs(
    logits: Float[Tensor, "N V"], tokens: Int[Tensor, " N"], num_top: int
) -> list[tuple[float, TopTokens]]:
    """log p(token) with p = softmax(logits) in float32, and the `num_top` likeliest tokens.

    These are the model's own: before temperature, penalties, masks and truncation (vLLM's
    `raw_logprobs`, its default). A token among the likeliest has the identical number there.

    Args:
        logits: As the model gives them.
        tokens: One a row.
        num_top: How many (id, log-probability) pairs to list, likeliest first, equals by id.
    """
    pairs: list[tuple[float, TopTokens]] = []
    for some, chosen in zip(logits.split(CHUNK), tokens.split(CHUNK), strict=True):
        scores = some.float()
        logprobs = scores.log_softmax(dim=-1)
        own = logprobs.gather(1, chosen.to(logits.device)[:, None]).squeeze(1).tolist()
        tops = [_top(*row, num_top) for row in zip(scores, logprobs, strict=True)]
        pairs += zip(own, tops, strict=True)
    return pairs


def prompt_logprobs(
    logits: Float[Tensor, "T V"], ids: Int[Tensor, " T"], num_top: int
) -> list[tuple[float, TopTokens] | None]:
    """`token_logprobs` of a prompt's own tokens (`echo`); None for the first, given nothing.

    Args:
        logits: Of the token after each position.
        ids: The prompt.
        num_top: As in `token_logprobs`.
    """
    return [None, *token_logprobs(logits[:-1], ids[1:], num_top)]


def _top(scores: Tensor, logprobs: Tensor, num_top: int) -> TopTokens:
    """Ordered by logit, as argmax does: log-probabilities of different logits may round to one."""
    if num_top == 0:
        return ()
    least = scores.topk(min(num_top, len(scores))).values[-1]
    ids = (scores >= least).nonzero().squeeze(1)  # ascending
    ids = ids[scores[ids].sort(descending=True, stable=True).indices[:num_top]]
    return tuple(zip(ids.tolist(), logprobs[ids].tolist(), strict=True))
