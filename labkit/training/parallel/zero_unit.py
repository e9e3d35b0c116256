"""What ZeRO divides: parameters side by side in one flat tensor, a chunk of it for each rank."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from labkit.training.parallel import collectives
from labkit.training.parallel.collectives import Group

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class Unit:
    """Parameters in one flat tensor of n equal chunks, of which this rank answers for one."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], group: Group, make_optimizer: MakeOptimizer
    ) -> None:
        self.parameters, self.group = list(parameters), group
        self.sizes = [p.numel() for p in parameters]
        self.padding = -sum(self.sizes) % group.size
        self.flat = self._joined([p.detach() for p in parameters])
        self.chunks = self.flat.chunk(group.size)
        pieces = self.flat.split([*self.sizes, self.padding])
        for parameter, piece in zip(self.parameters, pieces, strict=False):
            parameter.data = piece.view_as(parameter)
        collectives.broadcast(self.flat, group)
        self.master = nn.Parameter(self.chunks[group.index].float().clone())
        self.optimizer = make_optimizer([self.master])
        self.shard: Tensor | None = None
        self.gradient: Tensor | None = None
        self.missing = set(range(len(self.parameters)))

    def _joined(self, tensors: Sequence[Tensor]) -> Tensor:
        flat = torch.cat([t.reshape(-1) for t in tensors])
        return torch.cat((flat, flat.new_zeros(self.padding)))

    def free(self) -> None:
        """Gives the whole parameters' memory back; the rank's own chunk stays, as `shard`."""
        if self.shard is None:
            self.shard = self.chunks[self.group.index].clone()
        self.flat.untyped_storage().resize_(0)

    def gather(self) -> None:
        """Fills the parameters again, in the tensor that autograd has saved."""
        storage = self.flat.untyped_storage()
        if storage.nbytes() or self.shard is None:
            return
        storage.resize_(self.flat.numel() * self.flat.element_size())
        with torch.no_grad():
            self.chunks[self.group.index].copy_(self.shard)
            collectives.all_gather(self.chunks, self.group)

    def reduce(self) -> None:
        """Sums the gradients over ranks, keeps this rank's chunk, drops the rest."""
        full = self._joined([p.grad for p in self.parameters if p.grad is not None])
        mine = collectives.reduce_scatter(full.chunk(self.group.size), self.group).clone()
        self.gradient = mine if self.gradient is None else self.gradient + mine
        for parameter in self.parameters:
            parameter.grad = None
        self.missing = set(range(len(self.parameters)))

    @torch.no_grad()
    def update(self) -> None:
        """One optimizer step on this rank's chunk, on the mean over ranks, in float32."""
        assert self.gradient is not None
        self.master.grad = self.gradient.float() / self.group.size
        self.optimizer.step()
        self.master.grad, self.gradient = None, None
        self.publish()

    @torch.no_grad()
    def publish(self) -> None:
        """Rounds the master chunk into the model's parameters, on all ranks before stage 3."""
        if self.shard is not None:
            self.free()  # a filled copy would be stale
            self.shard.copy_(self.master)
        else:
            self.chunks[self.group.index].copy_(self.master)
            collectives.all_gather(self.chunks, self.group)
