"""One call for logits, whichever Llama it is, and the default loss on them."""

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from labkit.data.batch import TokenBatch
from labkit.model import moe
from labkit.model.minillm import MiniLLM
from labkit.objectives.language_modelling import IGNORE_INDEX, cross_entropy, shift_labels
from labkit.objectives.linear_cross_entropy import linear_cross_entropy


def batch_logits(model: nn.Module, batch: TokenBatch) -> Float[Tensor, "B T V"]:
    """Logits of a batch from a MiniLLM, or from a transformers model (its ``.logits``).

    Packed documents do not see each other in either: MiniLLM masks by document id; transformers
    derives the same mask from positions that restart, when it is given no other mask.

    Args:
        model: MiniLLM, or a module called as ``model(input_ids=..., use_cache=False)``.
        batch: Right-padded or packed tokens.

    Returns:
        Scores of position t for the token at t + 1.

    Raises:
        ValueError: If documents are packed for a transformers model without positions.
    """
    if isinstance(model, MiniLLM):
        logits: Tensor = model(
            batch.ids, positions=batch.positions, document_ids=batch.document_ids
        )
        return logits
    if batch.document_ids is not None and batch.positions is None:
        raise ValueError("a packed batch needs positions that restart at every document")
    output = model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False)
    return cast(Tensor, output.logits)


def causal_lm_loss(model: nn.Module, batch: TokenBatch) -> tuple[Float[Tensor, ""], int]:
    """Summed next-token cross-entropy of a batch in nats, and the number of predicted tokens."""
    return cross_entropy(batch_logits(model, batch), batch.labels)


def fused_lm_loss(model: nn.Module, batch: TokenBatch) -> tuple[Float[Tensor, ""], int]:
    """`causal_lm_loss` of a MiniLLM without ever holding the logits of all positions.

    Raises:
        ValueError: the model is no MiniLLM, or an adapter or quantization sits on its head.
    """
    if not isinstance(model, MiniLLM) or type(model.lm_head) is not nn.Linear:
        raise ValueError("fused_lm_loss needs a MiniLLM with a plain head: use causal_lm_loss")
    hidden = model.hidden_states(
        batch.ids, positions=batch.positions, document_ids=batch.document_ids
    )
    targets = shift_labels(batch.labels).flatten()
    loss = linear_cross_entropy(hidden.flatten(0, 1), model.lm_head.weight, targets)
    return loss, int((targets != IGNORE_INDEX).sum())


def routed_lm_loss(
    model: nn.Module, batch: TokenBatch, *, balance_weight: float = 0.01, z_weight: float = 0.0
) -> tuple[Float[Tensor, ""], int]:
    """`causal_lm_loss` of a mixture of experts, plus what keeps its routers in balance.

    The means over layers of `moe.balance_loss` and `moe.router_z_loss` count once for each
    predicted token, so that the step's mean loss holds them with exactly these weights.

    Args:
        model: MiniLLM with experts.
        batch: Right-padded or packed tokens; padding is routed like any token.
        balance_weight: alpha of arXiv 2101.03961, equation 4; 0.01 there.
        z_weight: Of the router z-loss; 0.001 in arXiv 2202.08906.

    Raises:
        ValueError: If the model has no router.
    """
    with moe.recorded_routing(model) as routings:
        loss, tokens = causal_lm_loss(model, batch)
    if not routings:
        raise ValueError("the model has no experts to balance: use causal_lm_loss")
    extra = sum(
        balance_weight * moe.balance_loss(routing) + z_weight * moe.router_z_loss(routing)
        for routing in routings
    )
    return loss + tokens * extra / len(routings), tokens
