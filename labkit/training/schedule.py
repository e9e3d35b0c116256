"""Learning-rate schedules as functions of the step."""

import math


def cosine_with_warmup(
    step: int, *, lr: float, steps: int, warmup_steps: int = 0, min_lr_ratio: float = 0.0
) -> float:
    """Linear warm-up to the peak, then half a cosine down to ``min_lr_ratio * lr``.

    ``lr * step / warmup`` while ``step < warmup``, then
    ``lr * (m + (1 - m) * (1 + cos(pi * p)) / 2)`` with ``m = min_lr_ratio`` and
    ``p = (step - warmup) / (steps - warmup)``. Beyond the last step the rate stays at its minimum.

    Paper: 1608.03983 (SGDR), equation 5, one period.

    Args:
        step: Optimizer steps already taken: 0 for the first update, which warm-up gives rate 0.
        lr: Peak learning rate.
        steps: Optimizer steps of the whole run.
        warmup_steps: Length of the linear rise.
        min_lr_ratio: Final rate as a share of the peak.

    Returns:
        The rate of the update that follows.

    Raises:
        ValueError: If ``step`` is negative.
    """
    if step < 0:
        raise ValueError(f"step={step} must not be negative")
    if step < warmup_steps:
        return lr * step / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return lr * (min_lr_ratio + (1.0 - min_lr_ratio) * cosine)
