"""What a training run is asked to do."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Settings of one run; every contradiction is refused when it is made.

    Attributes:
        steps: Optimizer steps in the whole run, those before a resume included.
        lr: Peak learning rate.
        warmup_steps: Steps over which the rate rises linearly from 0.
        min_lr_ratio: The rate at the end of the cosine, as a share of ``lr``.
        weight_decay: AdamW's decoupled decay, on matrices only (not on norms and biases).
        betas: AdamW's decay rates of the two moments.
        clip_norm: Largest global gradient norm; None leaves gradients as they are.
        accumulation: Micro-batches whose gradients are added before a step.
        dtype: "float32", or "bfloat16" for autocast; the weights keep their own type.
        seed: Of the stochastic parts of a step (dropout); the data has its own generator.
        checkpoint_every: Steps between checkpoints, 0 for one at the end only.
    """

    steps: int
    lr: float
    warmup_steps: int = 0
    min_lr_ratio: float = 0.1
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float | None = 1.0
    accumulation: int = 1
    dtype: str = "float32"
    seed: int = 0
    checkpoint_every: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError with the values met and the way out."""
        self._check_counts()
        self._check_rates()
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(
                f"dtype={self.dtype!r} must be 'float32' or 'bfloat16' "
                "(float16 would need loss scaling)"
            )

    def _check_counts(self) -> None:
        if self.steps <= 0:
            raise ValueError(f"steps={self.steps} must be at least 1")
        if self.accumulation <= 0:
            raise ValueError(f"accumulation={self.accumulation} must be at least 1")
        if not 0 <= self.warmup_steps <= self.steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} must lie between 0 and steps={self.steps}"
            )
        if self.checkpoint_every < 0:
            raise ValueError(
                f"checkpoint_every={self.checkpoint_every} must be 0 (at the end only) or more"
            )

    def _check_rates(self) -> None:
        if not (self.lr > 0.0 and math.isfinite(self.lr)):
            raise ValueError(f"lr={self.lr} must be positive and finite")
        if not 0.0 <= self.min_lr_ratio <= 1.0:
            raise ValueError(f"min_lr_ratio={self.min_lr_ratio} must lie between 0 and 1")
        if self.weight_decay < 0.0:
            raise ValueError(f"weight_decay={self.weight_decay} must not be negative")
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas={self.betas} must both lie in [0, 1)")
        if self.clip_norm is not None and not self.clip_norm > 0.0:
            raise ValueError(f"clip_norm={self.clip_norm} must be positive, or None for none")
