"""Cross-entropy straight from hidden states: the logits of all positions never exist at once."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function

from labkit.objectives.language_modelling import IGNORE_INDEX

CHUNK_ROWS = 128


def linear_cross_entropy(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    targets: Int[Tensor, " N"],
    *,
    chunk_rows: int = CHUNK_ROWS,
) -> Float[Tensor, ""]:
    """-sum_n log softmax(hidden[n] W^T)[targets[n]], over a few rows at a time.

    With p = softmax(h W^T) the gradients are dh = (p - onehot) W and dW = (p - onehot)^T h, and a
    chunk's are computed while its logits are at hand, in the forward pass. So `chunk_rows` V
    float32 numbers are held instead of several times N V, and positions without a target cost
    nothing. The softmax is computed in float32; under autocast the products are not.

    Args:
        hidden: what the head would be given.
        weight: of the head; its gradient is computed only if it is wanted.
        targets: the token that each position must predict; `IGNORE_INDEX` where none is wanted.
        chunk_rows: positions whose logits exist at a time.

    Returns:
        The sum in nats, float32; 0 without targets.

    Raises:
        ValueError: `chunk_rows` is below 1.
    """
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows={chunk_rows} must be at least 1; {CHUNK_ROWS} is usual")
    kept = (targets != IGNORE_INDEX).nonzero().squeeze(1)
    loss: Tensor = _Chunked.apply(hidden[kept], weight, targets[kept], chunk_rows)
    return loss


class _Chunked(Function):
    """Both passes at once; `backward` only scales what was computed."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk_rows: int
    ) -> Tensor:
        wanted, dtypes = ctx.needs_input_grad, (hidden.dtype, weight.dtype)
        hidden, weight = (x.to(_product_dtype(hidden)) for x in (hidden, weight))
        d_hidden = torch.empty_like(hidden) if wanted[0] else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        loss = hidden.new_zeros((), dtype=torch.float32)
        for first in range(0, len(hidden), chunk_rows):
            part = slice(first, first + chunk_rows)
            losses, error = _softmax_error(hidden[part] @ weight.t(), targets[part])
            loss += losses.sum()
            if d_hidden is not None:
                torch.mm(error, weight, out=d_hidden[part])
            if d_weight is not None:
                d_weight += error.t() @ hidden[part]
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.dtypes = dtypes
        return loss

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        found = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        d_hidden, d_weight = (None if d is None else (d * d_loss).to(t) for d, t in found)
        return d_hidden, d_weight, None, None


def _product_dtype(x: Tensor) -> torch.dtype:
    """Autocast's dtype where it is on, else the tensor's own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _softmax_error(
    logits: Float[Tensor, "n V"], targets: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n V"]]:
    """Each row's loss in nats, and softmax(logits) - onehot(target) in the logits' dtype."""
    scores = logits.float()
    rows, top = torch.arange(len(targets), device=logits.device), scores.amax(-1, keepdim=True)
    target_scores = scores[rows, targets]
    p = scores.sub_(top).exp_()  # scores may be the logits themselves, which nobody else has
    total = p.sum(-1, keepdim=True)
    losses = (total.log() + top).squeeze(1) - target_scores
    p.div_(total)
    p[rows, targets] -= 1
    return losses, p.to(logits.dtype)
