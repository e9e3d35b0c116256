"""Running a model to be judged: no dropout, no gradients, the model as it was afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from labkit.data.batch import TokenBatch
from labkit.objectives.language_modelling import token_log_probs
from labkit.training.forward import batch_logits


@contextmanager
def judged(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's own mode comes back, also after an error."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def log_probs_from(
    model: nn.Module, ids: Int[Tensor, "B T"], start: int
) -> Float[Tensor, "B scored"]:
    """log p(ids[t] | ids[:t]) in nats for t = max(start, 1) .. T - 1, on the CPU.

    Works for MiniLLM and for transformers models; `ids` may lie on any device.
    """
    ids = _on_device(model, ids)
    logits = batch_logits(model, TokenBatch(ids=ids, labels=ids))
    first = max(start, 1) - 1  # the position that predicts the first scored token
    return token_log_probs(logits[:, first:], ids[:, first:]).cpu()


def next_token_log_probs(model: nn.Module, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
    """log p(token | ids) in nats for every token that may come next, on the CPU."""
    ids = _on_device(model, ids)
    logits = batch_logits(model, TokenBatch(ids=ids, labels=ids))
    return logits[:, -1].float().log_softmax(-1).cpu()


def _on_device(model: nn.Module, ids: Tensor) -> Tensor:
    return ids.to(next(model.parameters()).device)
