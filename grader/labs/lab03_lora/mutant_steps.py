"""Wrong training steps of exercise 6 that its check must tell from a right one."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from grader.labs.lab03_lora import reference

Step = Callable[..., float]


def wrong(*, shift: int, by_batch: bool, clear: str, clip: bool) -> Step:
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


def _counted(labels: Tensor) -> int:
    return int((labels[:, 1:] != -100).sum())


def _loss(model: nn.Module, ids: Tensor, labels: Tensor, reduction: str) -> Tensor:
    logits, targets = model(ids)[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return nn.functional.cross_entropy(logits, targets, reduction=reduction)


def clips_each_group(model: nn.Module, batches: Any, optimizer: Any, clip_norm: float) -> float:
    optimizer.register_step_pre_hook(lambda *_: _clip_groups(optimizer, clip_norm))
    return reference.train_step(model, batches, optimizer, math.inf)


def _clip_groups(optimizer: Any, clip_norm: float) -> None:
    for group in optimizer.param_groups:
        nn.utils.clip_grad_norm_(group["params"], clip_norm)


def weighted_means(model: nn.Module, batches: Any, optimizer: Any, clip_norm: float) -> float:
    optimizer.zero_grad()
    tokens, total = sum(_counted(labels) for _, labels in batches), 0.0
    for ids, labels in batches:
        loss = _loss(model, ids, labels, "mean") * _counted(labels) / tokens
        loss.backward()
        total += loss.item()
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    return total


def one_backward(model: nn.Module, batches: Any, optimizer: Any, clip_norm: float) -> float:
    optimizer.zero_grad()
    losses = [_loss(model, ids, labels, "sum") for ids, labels in batches]
    loss = torch.stack(losses).sum() / sum(_counted(labels) for _, labels in batches)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    return loss.item()


def pads_together(model: nn.Module, batches: Any, optimizer: Any, clip_norm: float) -> float:
    longest = max(ids.shape[1] for ids, _ in batches)
    pad = nn.functional.pad
    ids = torch.cat([pad(i, (0, longest - i.shape[1])) for i, _ in batches])
    labels = torch.cat([pad(t, (0, longest - t.shape[1]), value=-100) for _, t in batches])
    return reference.train_step(model, [(ids, labels)], optimizer, clip_norm)
