"""Wrong implementations of lab 03 that a check must tell from a right one."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from grader.labs.lab03_lora import mutant_layers as layers
from grader.labs.lab03_lora import mutant_steps as steps
from grader.labs.lab03_lora import reference


def _rank_only(lora_A: Tensor, lora_B: Tensor, alpha: float, use_rslora: bool = False) -> Tensor:
    return lora_B @ lora_A / lora_A.shape[0]


def _no_rank(lora_A: Tensor, lora_B: Tensor, alpha: float, use_rslora: bool = False) -> Tensor:
    return alpha * lora_B @ lora_A


def _transposed(lora_A: Tensor, lora_B: Tensor, alpha: float, use_rslora: bool = False) -> Tensor:
    return reference.lora_delta(lora_A, lora_B, alpha, use_rslora).T


def _ignores_rslora(
    lora_A: Tensor, lora_B: Tensor, alpha: float, use_rslora: bool = False
) -> Tensor:
    return reference.lora_delta(lora_A, lora_B, alpha)


def _in_place(lora_A: Tensor, lora_B: Tensor, alpha: float, use_rslora: bool = False) -> Tensor:
    scale = alpha / (math.sqrt(lora_A.shape[0]) if use_rslora else lora_A.shape[0])
    return lora_B.mul_(scale) @ lora_A


def _wraps(
    model: nn.Module,
    make_layer: Any,
    targets: Sequence[str],
    *,
    ends: bool,
    freeze: bool,
    count: bool,
) -> tuple[int, int]:
    """Apply with one of three faults: names matched by their end, none frozen, frozen counted."""
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


def _refuses_with(error: Callable[[list[str]], Exception]) -> Callable[..., tuple[int, int]]:
    """Make a right `apply_lora` but for the error it raises when nothing matches."""

    def apply(model: nn.Module, make_layer: Any, targets: Sequence[str]) -> tuple[int, int]:
        try:
            return reference.apply_lora(model, make_layer, targets)
        except ValueError:
            raise error(list(targets)) from None

    return apply


def _misses_the_top(model: nn.Module, make_layer: Any, targets: Sequence[str]) -> tuple[int, int]:
    return _wraps(model, make_layer, [f".{t}" for t in targets], ends=True, freeze=True, count=True)


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


def _weight_only(layer: Any, alpha: float) -> str:
    if layer.base.weight.requires_grad:
        return "base_trains"
    with torch.no_grad():
        silenced = copy.deepcopy(layer)
    silenced.base.bias.requires_grad_(False)
    return reference.diagnose(silenced, alpha)


def _reads_only_the_up_factor(layer: Any, alpha: float) -> str:
    answer = reference.diagnose(layer, alpha)
    if answer in ("base_trains", "dead", "wrong_scaling"):
        return answer
    return "not_identity" if layer.lora_B.any() else "healthy"


def _zero_down_factor_is_dead(layer: Any, alpha: float) -> str:
    answer = reference.diagnose(layer, alpha)
    return "dead" if answer == "healthy" and not layer.lora_A.any() else answer


def _freezes_the_base(layer: Any, alpha: float) -> str:
    answer = reference.diagnose(layer, alpha)
    layer.base.requires_grad_(False)
    return answer


def _leaves_gradients(layer: Any, alpha: float) -> str:
    answer = reference.diagnose(layer, alpha)
    layer(torch.ones(1, layer.lora_A.shape[1])).sum().backward()
    return answer


MUTANTS: dict[str, dict[str, Any]] = {
    "lora_delta": {
        "divides by the rank, forgets alpha": _rank_only,
        "multiplies by alpha, forgets the rank": _no_rank,
        "transposed": _transposed,
        "ignores use_rslora": _ignores_rslora,
        "scales a factor in place": _in_place,
    },
    "lora_linear": {
        "both factors zero": layers.BothZero,
        "both factors random": layers.BothRandom,
        "base trains": layers.BaseTrains,
        "no scaling": layers.NoScaling,
        "draws from the global generator": layers.GlobalSeed,
        "lora_A gets no gradient": layers.Detached,
        "seeds the global generator": layers.SeedsGlobally,
        "draws from a seed of its own": layers.HidesItsSeed,
        "draws one number more than it needs": layers.OneNumberMore,
        "takes lora_A from an nn.Linear": layers.FromLinear,
        "starts the generator again": layers.SeedOfTheGenerator,
        "multiplies x with the whole update": layers.UpdateOfX,
        "adds the update to the weight": layers.UpdatedWeight,
        "builds the update transposed": layers.TransposedUpdate,
        "keeps the base under another name": layers.OtherName,
        "copies the base": layers.CopiesBase,
        "no gradient through the base": layers.BaseWithoutGradient,
        "no gradient to x through the factors": layers.DetachedInput,
    },
    "apply_lora": {
        "matches the end of a name": lambda m, k, t: _wraps(
            m, k, t, ends=True, freeze=True, count=True
        ),
        "freezes nothing": lambda m, k, t: _wraps(m, k, t, ends=False, freeze=False, count=True),
        "total without the adapter": lambda m, k, t: _wraps(
            m, k, t, ends=False, freeze=True, count=False
        ),
        "silent when nothing matches": _silent_when_nothing_matches,
        "an error without the names": _refuses_with(lambda t: ValueError("no match")),
        "an error with the first name only": _refuses_with(lambda t: ValueError(t[0])),
        "a KeyError with the names": _refuses_with(lambda t: KeyError(*t)),
        "misses a layer at the top": _misses_the_top,
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
        "looks at the base's weight only": _weight_only,
        "takes a zero B for the identity, and no other": _reads_only_the_up_factor,
        "takes a zero A for a dead adapter": _zero_down_factor_is_dead,
        "freezes the base it looks at": _freezes_the_base,
        "leaves gradients behind": _leaves_gradients,
    },
    "train_step": {
        "no shift": steps.wrong(shift=0, by_batch=False, clear="once", clip=True),
        "mean of means": steps.wrong(shift=1, by_batch=True, clear="once", clip=True),
        "zero_grad inside the loop": steps.wrong(
            shift=1, by_batch=False, clear="inside", clip=True
        ),
        "stale gradients": steps.wrong(shift=1, by_batch=False, clear="never", clip=True),
        "never clips": steps.wrong(shift=1, by_batch=False, clear="once", clip=False),
        "clips each group by its own norm": steps.clips_each_group,
        "weighs means, of which one is nan": steps.weighted_means,
        "one backward for all": steps.one_backward,
        "pads all into one batch": steps.pads_together,
    },
}
