"""What the parallel tests share: a tiny model, its batches, and one process's training of it."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from labkit.model.config import ModelConfig
from labkit.model.minillm import MiniLLM, initialise
from labkit.objectives.language_modelling import cross_entropy

BATCH, LENGTH = 12, 10


def tiny_model(**changes: object) -> MiniLLM:
    """24 divides every parameter's size, so that formulas are exact on 2, 3 and 4 ranks."""
    sizes = {
        "vocab_size": 97,
        "width": 24,
        "num_layers": 3,
        "num_heads": 6,
        "num_kv_heads": 2,
        "head_width": 4,
        "ffn_width": 40,
        "max_length": 120,
    }
    model = MiniLLM(ModelConfig(**(sizes | changes)))
    initialise(model, torch.Generator().manual_seed(7))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.linspace(0.6, 1.3, len(parameter)))
            else:
                parameter.mul_(4.0)  # far from linear: at 0.02 every attention looks alike
    return model


def batch(step: int, rows: int = BATCH, length: int = LENGTH) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + step)
    return torch.randint(0, 97, (rows, length), generator=generator)


def mean_loss(model: nn.Module, ids: Tensor) -> Tensor:
    loss, count = cross_entropy(model(ids), ids)
    return loss / count


def gradients(model: nn.Module) -> dict[str, Tensor]:
    named = model.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def trained(
    model: nn.Module, make_optimizer: Callable[..., torch.optim.Optimizer], steps: int
) -> list[dict[str, Tensor]]:
    """One process's gradients of each step, on the whole batch; the model ends trained."""
    optimizer = make_optimizer(model.parameters())
    history = []
    for step in range(steps):
        optimizer.zero_grad()
        mean_loss(model, batch(step)).backward()
        history.append(gradients(model))
        optimizer.step()
    return history


def values(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy({name: p.detach() for name, p in model.named_parameters()})
