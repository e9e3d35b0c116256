"""ZeRO's state as whole tensors, so that a run resumes on another number of ranks.

Shards depend on the number of ranks, whole tensors do not: gather on saving, cut on loading.
"""

from typing import Any

import torch
from torch import Tensor

from labkit.training.parallel import collectives
from labkit.training.parallel.zero import Zero
from labkit.training.parallel.zero_unit import Unit

State = list[dict[str, Any]]


def whole_state(zero: Zero) -> State:
    """Master parameters and optimizer state of every unit, unpadded; the same on every rank.

    Call it on all ranks, between steps. Needs the memory of the whole state on each.
    """
    return [
        {
            "master": _whole(unit.master.detach(), unit),
            "optimizer": {
                key: _whole(value, unit) if _is_shard(value, unit) else value
                for key, value in unit.optimizer.state[unit.master].items()
            },
        }
        for unit in zero.units
    ]


@torch.no_grad()
def load_state(zero: Zero, state: State) -> None:
    """Puts this rank's parts of a whole state in place, and the parameters with them.

    Raises:
        ValueError: the state is of other units.
    """
    sizes = [len(saved["master"]) for saved in state]
    expected = [sum(unit.sizes) for unit in zero.units]
    if sizes != expected:
        raise ValueError(f"the state has units of {sizes} parameters, the model of {expected}")
    for unit, saved in zip(zero.units, state, strict=True):
        unit.master.copy_(_part(saved["master"], unit))
        numel = sum(unit.sizes)
        unit.optimizer.state[unit.master] = {
            key: _part(value, unit) if value.ndim and len(value) == numel else value.clone()
            for key, value in saved["optimizer"].items()
        }
        unit.publish()


def _is_shard(value: Tensor, unit: Unit) -> bool:
    return value.ndim == 1 and value.shape == unit.master.shape


def _whole(shard: Tensor, unit: Unit) -> Tensor:
    chunks = [torch.empty_like(shard) for _ in unit.group.ranks]
    chunks[unit.group.index].copy_(shard)
    collectives.all_gather(chunks, unit.group)
    return torch.cat(chunks)[: sum(unit.sizes)]


def _part(whole: Tensor, unit: Unit) -> Tensor:
    padded = torch.cat((whole, whole.new_zeros(unit.padding)))
    return padded.chunk(unit.group.size)[unit.group.index].clone()
