"""Wrong implementations of lab 03 that a check must tell from a right one."""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from grader.labs.lab03_lora import reference

Step = Callable[..., float]


def _rank_only(lora_A: Tensor, lora_B: Tensor, alpha: float, use_rslora: bool = False) -> Tensor:
    return lora_B @ lora_A / lora_A.shape[0]


def _no_rank(lora_A: Tensor, lora_B: Tensor, alpha: float, use_rslora: bool = False) -> Tensor:
    return alpha * lora_B @ lora_A


def _transposed(lora_A: Tensor, lora_B: Tensor, alpha: float, use_rslora: bool = False) -> Tensor:
    return reference.lora_delta(lora_A, lora_B, alpha, use_rslora).T


def _ignores_rslora(lora_A: Tensor, lora_B: Tensor, alpha: float, use_rslora: bool = False) -> Tensor:
    return reference.lora_delta(lora_A, lora_B, alpha)


def _in_place(lora_A: Tensor, lora_B: Tensor, alpha: float, use_rslora: bool = False) -> Tensor:
    scale = alpha / (math.sqrt(lora_A.shape[0]) if use_rslora else lora_A.shape[0])
    return lora_B.mul_(scale) @ lora_A


class _BothZero(reference.LoraLinear):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        nn.init.zeros_(self.lora_A)


class _BothRandom(reference.LoraLinear):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        nn.init.normal_(self.lora_B, generator=arguments[3])


class _BaseTrains(reference.LoraLinear):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.base.requires_grad_(True)


class _NoScaling(reference.LoraLinear):
    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.base(x) + (x @ self.lora_A.T) @ self.lora_B.T)


class _GlobalSeed(reference.LoraLinear):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))


class _Detached(reference.LoraLinear):
    def forward(self, x: Tensor) -> Tensor:
        narrow = x @ self.lora_A.detach().T
        return cast(Tensor, self.base(x) + self.scaling * narrow @ self.lora_B.T)


def _wraps(
    model: nn.Module, make_layer: Any, targets: Sequence[str], *, ends: bool, freeze: bool, count: bool
) -> tuple[int, int]:
    """Apply with one of three faults: names matched by substring, nothing frozen, frozen counted."""
    if freeze:
        model.requires_grad_(False)
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and (name.endswith(tuple(targets)) if ends else name.rpartition(".")[2] in targets)
    ]
    if not names:
        raise ValueError("no match")
    for name in names:
        model.set_submodule(name, make_layer(model.get_submodule(name)))
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return (trainable, total) if count else (trainable, total - trainable)


def _silent_when_nothing_matches(
    model: nn.Module, make_layer: Any, targets: Sequence[str]
) -> tuple[int, int]:
    try:
        return reference.apply_lora(model, make_layer, targets)
    except ValueError:
        return 0, 0


def _merge_in_dtype(weight: Tensor, lora_A: Tensor, lora_B: Tensor, scaling: float) -> Tensor:
    return weight + (scaling * lora_B @ lora_A).to(weight.dtype)


def _merge_unscaled(weight: Tensor, lora_A: Tensor, lora_B: Tensor, scaling: float) -> Tensor:
    return reference.merge_weight(weight, lora_A, lora_B, math.copysign(1.0, scaling))


def _merge_keeps_float32(weight: Tensor, lora_A: Tensor, lora_B: Tensor, scaling: float) -> Tensor:
    return weight.float() + scaling * (lora_B @ lora_A)


def _merge_in_place(weight: Tensor, lora_A: Tensor, lora_B: Tensor, scaling: float) -> Tensor:
    return weight.copy_(reference.merge_weight(weight, lora_A, lora_B, scaling))


def _trusts_scaling(layer: Any, alpha: float) -> str:
    answer = reference.diagnose(layer, alpha)
    return "healthy" if answer == "wrong_scaling" else answer


def _zero_is_dead(layer: Any, alpha: float) -> str:
    answer = reference.diagnose(layer, alpha)
    return "dead" if answer == "healthy" else answer


def _leaves_probe(layer: Any, alpha: float) -> str:
    answer = reference.diagnose(layer, alpha)
    with torch.no_grad():
        layer.lora_B.fill_(1.0)
    return answer


def _step(*, shift: int, by_batch: bool, clear: str, clip: bool) -> Step:
    """Make a training step with one of four faults."""

    def step(model: nn.Module, batches: Any, optimizer: Any, clip_norm: float) -> float:
        if clear == "once":
            optimizer.zero_grad()
        tokens = sum(int((labels[:, 1:] != -100).sum()) for _, labels in batches)
        total = 0.0
        for ids, labels in batches:
            if clear == "inside":
                optimizer.zero_grad()
            T = ids.shape[1]
            logits = model(ids)[:, : T - shift].flatten(0, 1)
            targets = labels[:, shift:].flatten()
            loss = nn.functional.cross_entropy(logits, targets, reduction="sum") / tokens
            if by_batch:
                loss = nn.functional.cross_entropy(logits, targets) / len(batches)
            loss.backward()
            total += loss.item()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        return total

    return step


MUTANTS: dict[str, dict[str, Any]] = {
    "lora_delta": {
        "divides by the rank, forgets alpha": _rank_only,
        "multiplies by alpha, forgets the rank": _no_rank,
        "transposed": _transposed,
        "ignores use_rslora": _ignores_rslora,
        "scales a factor in place": _in_place,
    },
    "lora_linear": {
        "both factors zero": _BothZero,
        "both factors random": _BothRandom,
        "base trains": _BaseTrains,
        "no scaling": _NoScaling,
        "draws from the global generator": _GlobalSeed,
        "lora_A gets no gradient": _Detached,
    },
    "apply_lora": {
        "matches the end of a name": lambda m, k, t: _wraps(m, k, t, ends=True, freeze=True, count=True),
        "freezes nothing": lambda m, k, t: _wraps(m, k, t, ends=False, freeze=False, count=True),
        "total without the adapter": lambda m, k, t: _wraps(
            m, k, t, ends=False, freeze=True, count=False
        ),
        "silent when nothing matches": _silent_when_nothing_matches,
    },
    "merge_weight": {
        "adds in the weight's dtype": _merge_in_dtype,
        "forgets the scaling": _merge_unscaled,
        "returns float32": _merge_keeps_float32,
        "changes the weight in place": _merge_in_place,
    },
    "diagnose": {
        "never probes the scaling": _trusts_scaling,
        "takes a zero B for a dead adapter": _zero_is_dead,
        "leaves its probe behind": _leaves_probe,
    },
    "train_step": {
        "no shift": _step(shift=0, by_batch=False, clear="once", clip=True),
        "mean of means": _step(shift=1, by_batch=True, clear="once", clip=True),
        "zero_grad inside the loop": _step(shift=1, by_batch=False, clear="inside", clip=True),
        "stale gradients": _step(shift=1, by_batch=False, clear="never", clip=True),
        "never clips": _step(shift=1, by_batch=False, clear="once", clip=False),
    },
}
