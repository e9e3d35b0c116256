"""Explicit random generators: nothing in labkit touches torch's or numpy's global state."""

import torch


def generator(seed: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh generator on `device`; equal seeds give equal draws on equal hardware.

    Raises:
        ValueError: `seed` is negative or does not fit 63 bits.
    """
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed} must lie in [0, 2**63)")
    return torch.Generator(device).manual_seed(seed)
