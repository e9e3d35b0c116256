"""A device mesh: ranks laid out by data, pipeline and tensor, and the group along each axis."""

from dataclasses import dataclass

import torch

from labkit.training.parallel.collectives import Group
from labkit.training.parallel.memory_model import Layout


@dataclass(frozen=True, kw_only=True, slots=True)
class Mesh:
    """This rank's group along each axis; two ranks share at most one group of more than one.

    Attributes:
        data: ranks with the same part of the model and other sequences.
        pipeline: the stages of this rank's replica, in order.
        tensor: ranks with the same layers and sequences.
    """

    data: Group
    pipeline: Group
    tensor: Group


def device_mesh(layout: Layout, rank: int) -> Mesh:
    """Lays out rank = (data p + pipeline) t + tensor: tensor ranks are neighbours.

    Tensor parallelism talks most, so it gets the shortest links.

    Raises:
        ValueError: the layout has no such rank.
    """
    if not 0 <= rank < layout.ranks:
        raise ValueError(f"rank={rank} is not among the layout's {layout.ranks}")
    places = torch.arange(layout.ranks).view(layout.data, layout.pipeline, layout.tensor)
    d, p, t = (int(i) for i in torch.where(places == rank))
    return Mesh(
        data=_group(places[:, p, t], rank),
        pipeline=_group(places[d, :, t], rank),
        tensor=_group(places[d, p, :], rank),
    )


def _group(ranks: torch.Tensor, rank: int) -> Group:
    return Group(ranks=tuple(ranks.tolist()), rank=rank)
