"""What of lab 11's questions stays outside the box: the verifiers that are to be diagnosed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from grader.checks.outside import Outside

Arrays = dict[str, Any]
MOST_NUMBERS = 2**14


def verifiers(inputs: Arrays) -> Arrays:
    """Each case's verifier as a function, with the size of its vocabulary."""
    return {"cases": [_case(**case) for case in inputs["cases"]]}


def _case(fault: int, vocab_size: int) -> Arrays:
    """A verifier; 0 is healthy, 1 to 4 have one fault each."""
    return {
        "vocab_size": vocab_size,
        "verifier": Outside(partial(_verify, fault, vocab_size), MOST_NUMBERS),
    }


def _verify(fault: int, V: int, proposed: Any, p: Any, q: Any, seed: Any) -> Tensor:
    """(B, 2): how many proposals of each row are accepted, and the token after them."""
    _validate(V, proposed, p, q, seed)
    gen = torch.Generator().manual_seed(seed)
    B, k = proposed.shape
    p, q, places = p.double(), q.double(), torch.arange(k)
    p_x, q_x = p[places, proposed], q[places, proposed]
    u = torch.rand(B, k + 1, generator=gen, dtype=torch.float64)
    accept = p_x >= q_x if fault == 3 else u[:, :k] * q_x < p_x
    accepted = accept.long().cumprod(1).sum(1)
    difference = p[:k] - q
    rest = difference.abs() if fault == 2 else difference.clamp(min=0)
    if fault == 1:
        rest = p[:k]
    # Where p = q nothing is rejected but by rounding.
    rest = torch.where(rest.sum(1, keepdim=True) > 0, rest, p[:k])
    sums = torch.cat([rest, q[-1:] if fault == 4 else p[k:]])[accepted].cumsum(1)
    token = torch.searchsorted(sums, u[:, k:] * sums[:, -1:], right=True).squeeze(1)
    return torch.stack([accepted, token], dim=1)


def _validate(V: int, proposed: Any, p: Any, q: Any, seed: Any) -> None:
    if any(type(x) is not Tensor or x.ndim != 2 for x in (proposed, p, q)):
        raise ValueError("expected tensors: proposed (B, k), p (k + 1, V) and q (k, V)")
    B, k = proposed.shape
    if B < 1 or k < 1 or tuple(p.shape) != (k + 1, V) or tuple(q.shape) != (k, V):
        shapes = ", ".join(str(tuple(x.shape)) for x in (proposed, p, q))
        raise ValueError(f"expected shapes (B, k), (k + 1, {V}) and (k, {V}), got {shapes}")
    if proposed.dtype is not torch.long or proposed.min() < 0 or proposed.max() >= V:
        raise ValueError(f"proposed must be int64, from 0 to {V - 1}")
    for name, law in (("p", p), ("q", q)):
        if not law.is_floating_point() or not ((law.sum(1) - 1).abs() < 1e-4).all():
            raise ValueError(f"every row of {name} must be a distribution: floats that sum to 1")
        if law.min() < 0:
            raise ValueError(f"{name} has a negative probability")
    if bool((q[torch.arange(k), proposed] <= 0).any()):
        raise ValueError("a proposal has probability 0 under q, so it was not drawn from it")
    if type(seed) is not int or not 0 <= seed < 2**31:
        raise ValueError("seed must be an int from 0 to 2**31 - 1")


HAND_OVER: dict[str, Callable[[Arrays], Arrays]] = {"diagnose": verifiers}
