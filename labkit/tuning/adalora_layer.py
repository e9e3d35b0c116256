"""AdaLoRA's layer: a trained update in the form of a singular value decomposition."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from labkit.tuning.adapted import AdaptedLinear, wide
from labkit.tuning.lora_layer import check_rank
from labkit.tuning.targets import placement

_INIT_STD = 0.02
_PEFT_EPSILON = 1e-5  # PEFT divides alpha by R + 1e-5; so that its files mean the same here


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaLoraConfig:
    """What to adapt, and how the budget of singular values shrinks over the run.

    Args:
        init_rank: singular values of every layer at the start.
        target_rank: how many a layer keeps on average at the end.
        alpha: numerator of the scaling alpha / init_rank.
        dropout: probability of dropping an input of the adapter's path, in [0, 1).
        target_modules: as `LoraConfig`.
        total_steps: of the whole run.
        initial_steps: at the start, with the whole budget.
        final_steps: at the end, with the final budget and fixed ranks.
        interval: steps between two reallocations.
        beta_sensitivity: smoothing of the sensitivity over steps, in (0, 1).
        beta_uncertainty: smoothing of its uncertainty, in (0, 1).
        orthogonality_weight: of `adalora.orthogonality` in the loss; the caller adds it.
        rank_pattern: for an adapter read from a file: by layer, which of the initial singular
            values are left. Such an adapter holds only those, and is not reallocated further.
    """

    init_rank: int = 12
    target_rank: int = 8
    alpha: float | int = 16.0
    dropout: float | int = 0.0
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    total_steps: int
    initial_steps: int = 0
    final_steps: int = 0
    interval: int = 1
    beta_sensitivity: float = 0.85
    beta_uncertainty: float = 0.85
    orthogonality_weight: float = 0.5
    rank_pattern: Mapping[str, tuple[bool, ...]] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.target_rank <= self.init_rank:
            raise ValueError(
                f"target_rank={self.target_rank} must lie in [1, init_rank={self.init_rank}]: the "
                "budget only shrinks; 1.5 times the target is usual at the start"
            )
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha={self.alpha} must be a positive number")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must lie in [0, 1)")
        if not self.target_modules:
            raise ValueError("target_modules is empty; name layers")
        self._check_schedule()

    def _check_schedule(self) -> None:
        if min(self.initial_steps, self.final_steps) < 0 or self.interval < 1:
            raise ValueError(
                f"initial_steps={self.initial_steps} and final_steps={self.final_steps} must be "
                f"at least 0, interval={self.interval} at least 1"
            )
        if self.initial_steps + self.final_steps >= self.total_steps:
            raise ValueError(
                f"initial_steps={self.initial_steps} and final_steps={self.final_steps} leave "
                f"nothing of total_steps={self.total_steps} to shrink the budget in"
            )
        for name in ("beta_sensitivity", "beta_uncertainty"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in (0, 1); 0.85 is usual")
        if self.orthogonality_weight < 0:
            raise ValueError(
                f"orthogonality_weight={self.orthogonality_weight} must not be below 0"
            )

    @property
    def scaling(self) -> float:
        """alpha / init_rank, whatever is left of the rank."""
        return self.alpha / (self.init_rank + _PEFT_EPSILON)


class SvdLinear(AdaptedLinear):
    """y = base(x) + s * ((x A^T) * E^T) B^T: the update B diag(E) A, with E zero at the start.

    A (R, I), E (R, 1) and B (O, R) are the paper's Q, Lambda and P, named as in PEFT's files. A and
    B are random; `adalora.orthogonality` in the loss keeps their rows and columns orthonormal, so
    that E are singular values. R (I + O + 1) weights train.

    Paper: arXiv 2303.10512, equation 3.

    Args:
        base: an `nn.Linear` or a packed linear.
        config: rank, scaling and dropout.
        rank: R, by default the config's initial one.
        generator: draws A and then B on the CPU; by default a fresh one with seed 0.
        dtype: of A, E and B, by default the base's.

    Raises:
        ValueError: the rank exceeds min(I, O).
    """

    method = "AdaLoRA"

    def __init__(
        self,
        base: nn.Module,
        config: AdaLoraConfig,
        *,
        rank: int | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_rank(config.init_rank, base, "this layer")
        super().__init__(base)
        R = config.init_rank if rank is None else rank
        device, base_dtype = placement(base)
        self.scaling = config.scaling
        self.dropout = nn.Dropout(config.dropout) if config.dropout > 0 else None
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        A = torch.empty(R, self.in_features).normal_(0.0, _INIT_STD, generator=generator)
        B = torch.empty(self.out_features, R).normal_(0.0, _INIT_STD, generator=generator)
        to = (device, dtype or base_dtype)
        self.lora_A = nn.Parameter(A.to(*to))
        self.lora_E = nn.Parameter(torch.zeros(R, 1).to(*to))
        self.lora_B = nn.Parameter(B.to(*to))

    def forward(self, x: Float[Tensor, "*B T I"]) -> Float[Tensor, "*B T O"]:
        base = self.base_layer(x)
        if self.merged or not self.enabled:
            return cast(Tensor, base)
        if self.dropout is not None:
            x = self.dropout(x)
        hidden = functional.linear(x, (self.lora_A * self.lora_E).to(x.dtype))
        rows = base.flatten(0, -2), hidden.flatten(0, -2)
        out = torch.addmm(*rows, self.lora_B.t().to(base.dtype), alpha=self.scaling)
        return out.view(base.shape)

    @torch.no_grad()
    def merged_weight(self) -> Float[Tensor, "O I"]:
        """W + s * B diag(E) A, summed in at least float32 and rounded once to W's dtype."""
        weight = self.base_weight()
        dtype = wide(weight)
        delta = self.lora_B.to(dtype) @ (self.lora_A.to(dtype) * self.lora_E.to(dtype))
        return weight.to(dtype).add(delta, alpha=self.scaling).to(weight.dtype)
