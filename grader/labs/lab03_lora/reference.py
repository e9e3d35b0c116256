"""labkit's LoRA in the shapes that lab 03's exercises ask for; the source of expected values."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from labkit.objectives.language_modelling import cross_entropy
from labkit.tuning import lora
from labkit.tuning.targets import replace, target_names


def lora_delta(lora_A: Tensor, lora_B: Tensor, alpha: float, use_rslora: bool = False) -> Tensor:
    """Return scaling * lora_B @ lora_A."""
    config = lora.LoraConfig(rank=lora_A.shape[0], alpha=alpha, use_rslora=use_rslora)
    return config.scaling * (lora_B @ lora_A)


class LoraLinear(nn.Module):
    """labkit's layer with its two factors as parameters called `lora_A` and `lora_B`."""

    def __init__(
        self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        config = lora.LoraConfig(rank=rank, alpha=alpha)
        layer = lora.LoraLinear(base, config, generator=generator)
        self.lora_A = layer.lora_A.weight
        self.lora_B = layer.lora_B.weight
        self.scaling = config.scaling
        self._layer = [layer]  # in a list, so that its parameters are not registered twice

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, I) to (B, T, O)."""
        output: Tensor = self._layer[0](x)
        return output


def apply_lora(
    model: nn.Module, make_layer: Callable[[nn.Linear], nn.Module], targets: Sequence[str]
) -> tuple[int, int]:
    """Freeze the model, wrap the named linears, count."""
    names = target_names(model, tuple(targets))
    model.requires_grad_(False)
    for name in names:
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        replace(model, name, make_layer(linear))
    counts = lora.trainable_parameters(model)
    return counts.trainable, counts.total


@torch.no_grad()
def merge_weight(weight: Tensor, lora_A: Tensor, lora_B: Tensor, scaling: float) -> Tensor:
    """Add the update in float32, round once."""
    O, I = weight.shape  # noqa: E741
    base = nn.Linear(I, O, bias=False, device="meta")
    base.weight = nn.Parameter(weight)
    layer = lora.LoraLinear(base, lora.LoraConfig(rank=lora_A.shape[0]))
    layer.lora_A.weight, layer.lora_B.weight = nn.Parameter(lora_A), nn.Parameter(lora_B)
    layer.scaling = scaling
    return layer.merged_weight()


@torch.no_grad()
def diagnose(layer: Any, alpha: float) -> str:
    """Name what is wrong with a freshly made adapter layer."""
    A, B, base = layer.lora_A, layer.lora_B, layer.base
    if any(parameter.requires_grad for parameter in base.parameters()):
        return "base_trains"
    x = torch.eye(A.shape[1])
    if not torch.allclose(layer(x), base(x), rtol=1e-3, atol=1e-4):
        return "not_identity"
    if not A.any() and not B.any():
        return "dead"
    kept = A.clone(), B.clone()
    A.fill_(0.5)
    B.fill_(1.0)
    update, expected = layer(x) - base(x), lora_delta(A, B, alpha).T
    A.copy_(kept[0])
    B.copy_(kept[1])
    return "healthy" if torch.allclose(update, expected, rtol=1e-3, atol=1e-4) else "wrong_scaling"


def train_step(
    model: nn.Module,
    micro_batches: Sequence[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    clip_norm: float,
) -> float:
    """One step over all micro-batches, normalised by the tokens counted in all of them."""
    optimizer.zero_grad()
    counted = sum(int((labels[:, 1:] != -100).sum()) for _, labels in micro_batches)
    total = 0.0
    for ids, labels in micro_batches:
        loss, _ = cross_entropy(model(ids), labels)
        (loss / counted).backward()
        total += loss.item() / counted
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    return total


IMPLEMENTATIONS: dict[str, Any] = {
    "lora_delta": lora_delta,
    "lora_linear": LoraLinear,
    "apply_lora": apply_lora,
    "merge_weight": merge_weight,
    "diagnose": diagnose,
    "train_step": train_step,
}
