"""Reference implementations for lab 03, in the shape its exercises ask for."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

IGNORE_INDEX = -100


def lora_delta(lora_A: Tensor, lora_B: Tensor, alpha: float, use_rslora: bool = False) -> Tensor:
    """Return scaling * lora_B @ lora_A."""
    rank = lora_A.shape[0]
    return (alpha / (math.sqrt(rank) if use_rslora else rank)) * (lora_B @ lora_A)


class LoraLinear(nn.Module):
    """A frozen linear layer plus a trainable low-rank update."""

    def __init__(
        self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5), generator=generator)
        self.scaling = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scaling * (x @ self.lora_A.T) @ self.lora_B.T


lora_linear = LoraLinear


def apply_lora(
    model: nn.Module, make_layer: Callable[[nn.Linear], nn.Module], targets: Sequence[str]
) -> tuple[int, int]:
    """Freeze, wrap the named linears, count."""
    model.requires_grad_(False)
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in targets
    ]
    if not found:
        raise ValueError(f"no nn.Linear is called any of {list(targets)}")
    for name in found:
        model.set_submodule(name, make_layer(model.get_submodule(name)))  # type: ignore[arg-type]
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)


def merge_weight(weight: Tensor, lora_A: Tensor, lora_B: Tensor, scaling: float) -> Tensor:
    """Add the update in float32, round once."""
    delta = scaling * (lora_B.float() @ lora_A.float())
    return (weight.float() + delta).to(weight.dtype)


def diagnose(layer: nn.Module, alpha: float) -> str:
    """Name what is wrong with a freshly made adapter layer."""
    A, B, base = layer.lora_A, layer.lora_B, layer.base
    if any(p.requires_grad for p in base.parameters()):  # type: ignore[union-attr]
        return "base_trains"
    if bool((B != 0).any()):  # type: ignore[union-attr]
        return "not_identity"
    if not bool((A != 0).any()):  # type: ignore[union-attr]
        return "dead"
    with torch.no_grad():
        x = torch.eye(A.shape[1])  # type: ignore[union-attr,arg-type,call-overload,index]
        B.fill_(1.0)  # type: ignore[union-attr,operator]
        update = layer(x) - base(x)  # type: ignore[operator]
        B.zero_()  # type: ignore[union-attr,operator]
        expected = alpha / A.shape[0] * x @ A.T @ torch.ones_like(B).T  # type: ignore
    return "healthy" if torch.allclose(update, expected, rtol=1e-3, atol=1e-4) else "wrong_scaling"


def train_step(
    model: nn.Module,
    micro_batches: Sequence[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    clip_norm: float,
) -> float:
    """One step over all micro-batches, normalised by the tokens counted in all of them."""
    optimizer.zero_grad()
    tokens = sum(int((labels[:, 1:] != IGNORE_INDEX).sum()) for _, labels in micro_batches)
    total = 0.0
    for ids, labels in micro_batches:
        logits = model(ids)[:, :-1].flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum") / tokens
        loss.backward()
        total += loss.item()
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    return total
