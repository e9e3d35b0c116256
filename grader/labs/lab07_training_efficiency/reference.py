"""labkit's methods in the shapes that lab 07's exercises ask for; the source of expected values."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from grader.labs.lab07_training_efficiency.check import tile_state
from labkit.data.batch import TokenBatch
from labkit.objectives.language_modelling import cross_entropy
from labkit.objectives.linear_cross_entropy import linear_cross_entropy
from labkit.training.efficiency import accumulation, checkpointing
from labkit.training.efficiency.loss_scaling import LossScale, LossScaler, LossScalingConfig

State = tuple[Tensor, Tensor, Tensor]
Load = Callable[[int, int], tuple[Tensor, Tensor]]
Step = Callable[[Tensor, Tensor, Tensor], Tensor]


def merge_states(first: State, second: State) -> State:
    """The state of both tiles, in float64 by way of each row's logarithms."""
    tops = torch.stack([first[0], second[0]]).double()
    top = tops.amax(0)
    weights = (tops - top.masked_fill(top == -math.inf, 0.0)).exp()
    norms = torch.stack([first[1], second[1]]).double()
    totals = torch.stack([first[2], second[2]]).double()
    return (
        top.float(),
        (weights * norms).sum(0).float(),
        (weights[..., None] * totals).sum(0).float(),
    )


def tiled_attention(
    q: Tensor, load: Load, length: int, block_q: int, block_k: int
) -> tuple[Tensor, Tensor]:
    """Each tile's state in float64, merged; labkit's FlashAttention-2 keeps its statistics."""
    outs, sums = [], []
    for start in range(0, len(q), block_q):
        rows = q[start : start + block_q].double()
        places = torch.arange(start, start + len(rows)) + length - len(q)
        top = torch.full((len(rows),), -math.inf)
        state: State = (top, torch.zeros_like(top), torch.zeros(rows.shape))
        for first in range(0, int(places[-1]) + 1, block_k):
            k, v = (x.double() for x in load(first, min(first + block_k, length)))
            hidden = torch.arange(first, first + len(k)) > places[:, None]
            scores = (rows @ k.T / math.sqrt(q.shape[1])).masked_fill(hidden, -math.inf)
            state = merge_states(state, tile_state(scores, v))
        outs.append(state[2] / state[1][:, None])
        sums.append(state[0] + state[1].log())
    return torch.cat(outs), torch.cat(sums)


def tile_gradients(
    q: Tensor, k: Tensor, v: Tensor, hidden: Tensor, out: Tensor, lse: Tensor, d_out: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A tile's shares in float64, as `labkit.model.flash` adds them up."""
    q, k, v, out, lse, d_out = (x.double() for x in (q, k, v, out, lse, d_out))
    scale = q.shape[1] ** -0.5
    p = (scale * q @ k.T - lse[:, None]).exp().masked_fill(hidden, 0.0)
    ds = scale * p * (d_out @ v.T - (d_out * out).sum(1, keepdim=True))
    return (ds @ k).float(), (ds.T @ q).float(), (p.T @ d_out).float()


def checkpoint(
    function: Callable[[Tensor], Tensor], x: Tensor, parameters: tuple[Tensor, ...]
) -> Tensor:
    """labkit's."""
    y: Tensor = checkpointing.checkpoint(function, x, parameters=parameters)
    return y


def scaled_step(
    parameters: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    scale: float,
    finite_steps: int,
    clip_norm: float,
    growth_interval: int = 2000,
) -> tuple[bool, float, int]:
    """labkit's scaler, made anew with its state, and gradients cleared."""
    scaler = LossScaler(LossScalingConfig(growth_interval=growth_interval))
    scaler.state = LossScale(scale, finite_steps)
    done = scaler.step(optimizer, clip_norm)
    for parameter in parameters:
        parameter.grad = None
    return done.skipped, scaler.state.scale, scaler.state.finite_steps


def accumulate(
    model: nn.Module,
    micro_batches: Sequence[tuple[Tensor, Tensor]],
    total: int | None = None,
    ranks: int = 1,
) -> tuple[float, int]:
    """labkit's, whose mean over the tokens here becomes this rank's share."""
    batches = [TokenBatch(ids=ids, labels=labels) for ids, labels in micro_batches]
    here = sum(accumulation.predicted_tokens(batch) for batch in batches)
    share = ranks * here / (here if total is None else total)
    mean, tokens = accumulation.accumulate(
        model,
        batches,
        loss=lambda model, batch: cross_entropy(model(batch.ids), batch.labels),
        scaled=lambda loss: share * loss,
    )
    return mean * tokens, tokens


def chunked_loss(hidden: Tensor, weight: Tensor, targets: Tensor, chunk_rows: int) -> Tensor:
    """labkit's."""
    return linear_cross_entropy(hidden, weight, targets, chunk_rows=chunk_rows)


def diagnose(step: Step, clip: int, exponent: int) -> str:
    """The first fault whose probe comes back otherwise than a right step's."""
    zero, one = torch.zeros(1), torch.ones(1)
    counted = torch.tensor([[True, True, True], [True, False, False]])
    uneven = torch.zeros(2, 3, 1)
    uneven[0] = 0.5  # the mean over four tokens is 3 / 8, that of the means 1 / 4
    found = -step(zero, uneven, counted).item()
    if math.isclose(found, 0.25, rel_tol=1e-3):
        return "mean_of_means"
    if not math.isclose(found, 0.375, rel_tol=1e-3):
        return "clipped_scaled"
    alone = torch.ones(1, 1, dtype=torch.bool)
    if step(zero, torch.full((1, 1, 1), 2.0**-28), alone) == 0:
        return "no_scaling"
    stalled = step(one, torch.full((1, 1, 1), 2.0**-12), alone) == one
    return "no_master" if bool(stalled) else "healthy"


IMPLEMENTATIONS: dict[str, Any] = {
    "merge_states": merge_states,
    "tiled_attention": tiled_attention,
    "tile_gradients": tile_gradients,
    "checkpoint": checkpoint,
    "scaled_step": scaled_step,
    "accumulate": accumulate,
    "chunked_loss": chunked_loss,
    "diagnose": diagnose,
}
