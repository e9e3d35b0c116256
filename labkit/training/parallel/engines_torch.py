"""Engines on PyTorch's own parallelism: DistributedDataParallel and `fully_shard` (FSDP2).

Paper: DDP arXiv 2006.15704; FSDP arXiv 2304.11277, whose second form shards each parameter.
"""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from labkit.data.batch import TokenBatch
from labkit.training import checkpoint
from labkit.training.config import TrainConfig
from labkit.training.loop import Loss, build_optimizer
from labkit.training.parallel import collectives
from labkit.training.parallel.collectives import Group
from labkit.training.parallel.engine import LossModule, RowsEngine, blocks_of
from labkit.training.parallel.engines_by_hand import ReplicatedEngine, set_lr


class TorchDataParallelEngine(ReplicatedEngine):
    """`torch.nn.parallel.DistributedDataParallel`."""

    def __init__(self, model: nn.Module, config: TrainConfig, loss: Loss, group: Group) -> None:
        super().__init__(model, config, loss, group)
        self.parallel = DistributedDataParallel(LossModule(model, loss))

    def backward(self, batch: TokenBatch, scale: float, *, last: bool) -> Tensor:
        """Its reducer averages over ranks, in the step's last backward only."""
        with nullcontext() if last else self.parallel.no_sync():
            with self.autocast():
                loss_sum: Tensor = self.parallel(batch)
            (scale * loss_sum).backward()
        return loss_sum.detach()


class FullyShardedEngine(RowsEngine):
    """`fully_shard` on every block and on the rest, as ZeRO's third stage."""

    def __init__(self, model: nn.Module, config: TrainConfig, loss: Loss, group: Group) -> None:
        super().__init__(model, config, loss, group)
        mesh = init_device_mesh("cpu", (group.size,))
        for block in blocks_of(model):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        self.trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.optimizer = build_optimizer(model, config)

    def backward(self, batch: TokenBatch, scale: float, *, last: bool) -> Tensor:
        """Gradients are averaged over ranks and kept as shards, in every backward."""
        with self.autocast():
            loss_sum, _ = self.loss(self.model, batch)
        (scale * loss_sum).backward()
        return loss_sum.detach()

    def update(self, lr: float) -> float:
        """AdamW on sharded tensors."""
        sharded = [p.grad for p in self.trainable.values() if isinstance(p.grad, DTensor)]
        gradients = [gradient.to_local() for gradient in sharded]
        squares = torch.stack([g.float().square().sum() for g in gradients]).sum()
        norm = collectives.all_reduce(squares.reshape(1), self.group).sqrt().item()
        factor = self.clip_factor(norm)
        for gradient in gradients:
            gradient.mul_(factor)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def state(self) -> dict[str, Tensor]:
        """Each tensor gathered whole."""
        live = checkpoint.training_state(self.model, self.optimizer)
        return {name: whole(tensor) for name, tensor in live.items()}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Each tensor sharded as its parameter."""
        parts = dict(tensors)
        for name, parameter in self.trainable.items():
            keys = [f"model.{name}", *(k for k in tensors if k.startswith(f"optimizer.{name}."))]
            for key in keys:
                if tensors[key].ndim:
                    parts[key] = like(parameter, tensors[key])
        checkpoint.restore_training_state(self.model, self.optimizer, parts)


def whole(tensor: Tensor) -> Tensor:
    """A DTensor's full value; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(parameter: nn.Parameter, tensor: Tensor) -> Tensor:
    """The whole tensor as this rank's part of a parameter."""
    if not isinstance(parameter, DTensor):
        return tensor
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
