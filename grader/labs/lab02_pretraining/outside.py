"""What of lab 02's questions stays outside the box: the training loops that are to be diagnosed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from grader.checks.outside import Outside

Arrays = dict[str, Any]
MOST_NUMBERS, MOST_STEPS = 2**12, 100
PADDING = 0
_NOT_SHIFTED, _PADDING_LEARNT, _GRADIENTS_KEPT, _WARMUP_SKIPPED = 1, 2, 3, 4


def loops(inputs: Arrays) -> Arrays:
    """Each case's training loop as a function, with its number of tokens."""
    return {"cases": [_loop(**case) for case in inputs["cases"]]}


def _loop(fault: int, vocab_size: int) -> Arrays:
    """0 is healthy, 1 to 4 have one fault each."""
    return {
        "vocab_size": vocab_size,
        "train": Outside(partial(_train, fault, vocab_size), MOST_NUMBERS),
    }


@torch.no_grad()
def _train(fault: int, V: int, ids: Any, lr: Any, warmup: Any, steps: Any) -> Tensor:
    """Losses (steps,) of a table of next-token scores under plain gradient descent."""
    _validate(V, ids, lr, warmup, steps)
    given, targets = ids[:, :-1].flatten(), ids[:, 1:].flatten()
    if fault == _NOT_SHIFTED:
        given = targets
    counted = targets != PADDING
    if fault == _PADDING_LEARNT:
        counted = torch.ones_like(counted)
    if not counted.any():
        raise ValueError("no token is to be predicted: all that follow are padding (0)")
    given, targets = given[counted], targets[counted]
    table, gradient = torch.zeros(V, V, dtype=torch.float64), torch.zeros(V, V).double()
    losses = []
    for step in range(steps):
        log_probs = table[given].log_softmax(-1)
        losses.append(-log_probs.gather(1, targets[:, None]).mean())
        if fault != _GRADIENTS_KEPT:
            gradient.zero_()
        off = log_probs.exp() - torch.nn.functional.one_hot(targets, V)
        gradient.index_add_(0, given, off / len(targets))
        rising = 1.0 if fault == _WARMUP_SKIPPED else min(1.0, (step + 1) / max(1, warmup))
        table -= lr * rising * gradient
    return torch.stack(losses)


def _validate(V: int, ids: Any, lr: Any, warmup: Any, steps: Any) -> None:
    if type(ids) is not Tensor or ids.ndim != 2 or ids.dtype is not torch.int64:
        raise ValueError("ids: expected an int64 tensor (B, T)")
    if not len(ids) or ids.shape[1] < 2 or not (0 <= ids.min() <= ids.max() < V):
        raise ValueError(f"ids needs rows of two tokens or more, each from 0 to {V - 1}")
    if type(warmup) is not int or warmup < 0:
        raise ValueError("warmup is a whole number of steps, 0 or more")
    if type(steps) is not int or not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"steps must be a whole number from 1 to {MOST_STEPS}")
    if type(lr) not in (int, float) or not 0 < lr <= 100:
        raise ValueError("lr must be a number above 0, at most 100")


HAND_OVER: dict[str, Callable[[Arrays], Arrays]] = {"diagnose": loops}
