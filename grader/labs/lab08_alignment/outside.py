"""What of lab 08's questions stays outside the box: the losses that are to be diagnosed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from grader.checks.outside import Outside

Arrays = dict[str, Any]
MOST_NUMBERS = 2**14


def losses(inputs: Arrays) -> Arrays:
    """Each case's loss as a function, with its beta."""
    return {"cases": [_case(**case) for case in inputs["cases"]]}


def _case(fault: int, beta: int) -> Arrays:
    """A DPO loss; 0 is healthy, 1 to 4 have one fault each."""
    return {"beta": beta, "loss": Outside(partial(_loss, fault, beta), MOST_NUMBERS)}


@torch.no_grad()
def _loss(fault: int, beta: int, policy: Any, reference: Any, response: Any) -> Tensor:
    """Losses (B,) from log-probabilities a token (2 B, T), chosen rows first."""
    _validate(policy, reference, response)
    counted = torch.ones_like(response) if fault == 4 else response
    ours, fixed = (_sequence(rows.float(), counted, fault) for rows in (policy, reference))
    if fault == 2:
        margin = beta * (ours[0] - ours[1]) - (fixed[0] - fixed[1])
    else:
        margin = beta * ((ours[0] - ours[1]) - (fixed[0] - fixed[1]))
    return -torch.nn.functional.logsigmoid(-margin if fault == 1 else margin)


def _sequence(rows: Tensor, counted: Tensor, fault: int) -> tuple[Tensor, ...]:
    """Chosen and rejected responses' log-probabilities."""
    sums = (rows * counted).sum(-1)
    return (sums / counted.sum(-1) if fault == 3 else sums).chunk(2)


def _validate(policy: Any, reference: Any, response: Any) -> None:
    tables = (policy, reference, response)
    if any(type(table) is not Tensor or table.ndim != 2 for table in tables):
        raise ValueError("expected policy, reference and response as tensors of shape (2 B, T)")
    if not policy.shape == reference.shape == response.shape or len(policy) % 2 or not len(policy):
        shapes = ", ".join(str(tuple(table.shape)) for table in tables)
        raise ValueError(f"expected three equal shapes (2 B, T), chosen rows first; got {shapes}")
    if response.dtype is not torch.bool or not response.any(-1).all():
        raise ValueError("response must be bool, with at least one True in every row")
    if not (policy.is_floating_point() and reference.is_floating_point()):
        raise ValueError("policy and reference must be log-probabilities, tensors of floats")


HAND_OVER: dict[str, Callable[[Arrays], Arrays]] = {"diagnose": losses}
