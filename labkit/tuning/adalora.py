"""AdaLoRA: give every layer the rank that the training gradient says it needs."""

from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from labkit.tuning import adapted
from labkit.tuning.adalora_layer import AdaLoraConfig as AdaLoraConfig
from labkit.tuning.adalora_layer import SvdLinear as SvdLinear
from labkit.tuning.lora_layer import check_rank
from labkit.tuning.targets import target_names

Model = TypeVar("Model", bound=nn.Module)
_FACTORS = ("lora_A", "lora_E", "lora_B")


def apply(
    model: Model,
    config: AdaLoraConfig,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> Model:
    """Freeze the model and put an `SvdLinear` around every layer the config targets, in place.

    The outputs stay the same to the bit until the adapters are trained. While they are, add
    `orthogonality(model)` times its weight to the loss, and call `RankAllocator.update` after the
    backward pass and the optimizer's step, before the gradients are cleared.

    Returns:
        The same model.

    Raises:
        ValueError: no layer matches, the rank is too large, a rank pattern is of other layers, or
            the model has adapters already. The model is then unchanged.
    """
    adapted.refuse_adapted(model)
    names = target_names(model, config.target_modules)
    for name in names:
        check_rank(config.init_rank, model.get_submodule(name), name)
    pattern = config.rank_pattern
    if pattern is not None and set(pattern) != set(names):
        differing = ", ".join(sorted(set(pattern) ^ set(names)))
        raise ValueError(f"the rank pattern and the targets differ in {differing}")
    generator = torch.Generator().manual_seed(0) if generator is None else generator

    def make(name: str, base: nn.Module) -> SvdLinear:
        rank = None if pattern is None else sum(pattern[name])
        return SvdLinear(base, config, rank=rank, generator=generator, dtype=dtype)

    adapted.wrap(model, names, make)
    return model


def layers(model: nn.Module) -> dict[str, SvdLinear]:
    """The model's adapters by path.

    Raises:
        ValueError: there are none.
    """
    return adapted.layers(model, SvdLinear)


def merge(model: Model) -> Model:
    """Merge every adapter into its layer, W <- W + s B diag(E) A."""
    return adapted.merge(model, SvdLinear)


def unmerge(model: Model) -> Model:
    """Undo `merge`, to the bit."""
    return adapted.unmerge(model, SvdLinear)


def remove(model: Model) -> Model:
    """Drop the adapters and put the base layers back, in place."""
    return adapted.remove(model, SvdLinear)


def orthogonality(model: nn.Module) -> Float[Tensor, ""]:
    """Mean over all A and B of |A A^T - I| and |B^T B - I| (Frobenius).

    Paper: arXiv 2303.10512, equation 4.
    Differs: as PEFT, a mean of norms, where the paper sums their squares.
    """
    terms = []
    for layer in layers(model).values():
        for gram in (layer.lora_A @ layer.lora_A.T, layer.lora_B.T @ layer.lora_B):
            identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
            terms.append(torch.linalg.matrix_norm(gram - identity))
    return torch.stack(terms).mean()


def budget(config: AdaLoraConfig, step: int, num_layers: int) -> int:
    """Singular values left in all layers: all, then a cubic descent to the target, then that.

    Paper: arXiv 2303.10512, equation 12.
    """
    descent = config.total_steps - config.final_steps - config.initial_steps
    gone = (step - config.initial_steps) / descent
    left = min(1.0, max(0.0, 1 - gone)) ** 3
    surplus = (config.init_rank - config.target_rank) * num_layers
    return int(surplus * left + config.target_rank * num_layers)


class RankAllocator:
    """Which singular values to keep: those of the triplets that the loss is most sensitive to.

    An entry w of A, E or B counts I(w) = |w * gradient|, smoothed over steps to I', with an
    uncertainty U' smoothed from |I - I'|; its score is I' U'. A triplet scores its E plus the means
    over its row of A and its column of B. Values that lose are set to zero, but their rows and
    columns go on training and may win again, until the final steps.

    Paper: arXiv 2303.10512, equations 8 to 11 and algorithm 1.

    Args:
        model: as `apply` left it.
        config: what `apply` was given.

    Attributes:
        kept: which values each layer keeps, by path; None before the first reallocation.

    Raises:
        ValueError: the model has no adapters, or its ranks were fixed by a file.
    """

    def __init__(self, model: nn.Module, config: AdaLoraConfig) -> None:
        if config.rank_pattern is not None:
            raise ValueError("the ranks are fixed by rank_pattern: nothing is left to allocate")
        self.config = config
        self.kept: dict[str, Bool[Tensor, " R"]] | None = None
        self._layers = layers(model)
        self._sensitivity: dict[str, Tensor] = {}
        self._uncertainty: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the gradients of a step, counted from 1, and reallocate if it is time to.

        Raises:
            ValueError: before the end of the allocation, a factor has no gradient.
        """
        config = self.config
        last = config.total_steps - config.final_steps
        if step < last:
            self._smooth()
        on_time = config.initial_steps < step < last and step % config.interval == 0
        if on_time or step == last:
            self.kept = self._allocate(budget(config, step, len(self._layers)))
        if self.kept is not None and (on_time or step >= last):
            for name, layer in self._layers.items():
                layer.lora_E.masked_fill_(~self.kept[name][:, None], 0.0)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """What `load_state_dict` needs to go on where this one stands."""
        return {
            "sensitivity": dict(self._sensitivity),
            "uncertainty": dict(self._uncertainty),
            "kept": dict(self.kept or {}),
        }

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Take over what `state_dict` gave."""
        self._sensitivity = dict(state["sensitivity"])
        self._uncertainty = dict(state["uncertainty"])
        self.kept = dict(state["kept"]) or None

    def _smooth(self) -> None:
        one, two = self.config.beta_sensitivity, self.config.beta_uncertainty
        for name, layer in self._layers.items():
            for factor in _FACTORS:
                weight, key = getattr(layer, factor), f"{name}.{factor}"
                if weight.grad is None:
                    raise ValueError(f"{key} has no gradient: call update before zero_grad")
                new = (weight * weight.grad).abs()
                old = self._sensitivity.get(key, torch.zeros_like(new))
                smooth = one * old + (1 - one) * new
                spread = self._uncertainty.get(key, torch.zeros_like(new))
                self._sensitivity[key] = smooth
                self._uncertainty[key] = two * spread + (1 - two) * (new - smooth).abs()

    def _allocate(self, total: int) -> dict[str, Bool[Tensor, " R"]]:
        """Keep the `total` best triplets of all layers together."""
        scores = [self._triplets(name) for name in self._layers]
        best = torch.cat(scores).argsort(descending=True, stable=True)[:total]
        mask = torch.zeros(sum(map(len, scores)), dtype=torch.bool, device=best.device)
        mask[best] = True
        return dict(zip(self._layers, mask.split([len(score) for score in scores]), strict=True))

    def _triplets(self, name: str) -> Float[Tensor, " R"]:
        A, E, B = (
            self._sensitivity[f"{name}.{factor}"] * self._uncertainty[f"{name}.{factor}"]
            for factor in _FACTORS
        )
        return E[:, 0] + A.mean(1) + B.mean(0)


def rank_pattern(model: nn.Module) -> dict[str, tuple[bool, ...]]:
    """Which singular values each layer has that are not zero, as a file keeps them."""
    return {
        name: tuple((layer.lora_E[:, 0] != 0).tolist()) for name, layer in layers(model).items()
    }
