"""One rank's side of a training step, however the model and its batch are spread over ranks."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from labkit.data.batch import IGNORE_INDEX, TokenBatch
from labkit.training.config import TrainConfig
from labkit.training.efficiency import accumulation
from labkit.training.loop import DivergedError, Loss
from labkit.training.parallel import collectives
from labkit.training.parallel.collectives import Group


class Engine(ABC):
    """Model, optimizer and communication of one rank.

    Every rank is given the whole batches of a step and takes its part. `accumulate` and `update`
    make one step, on all ranks alike. State goes in and out as whole tensors under the names of
    `checkpoint.training_state`, whatever the ranks keep, so that a checkpoint of one strategy and
    number of ranks is one of every other, and of the one-process loop.

    Attributes:
        model: the model as given, changed in place.
        group: all ranks, for what is sent by hand.
        rows: ranks that share a batch's rows; the rank alone where all see all rows.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, loss: Loss, group: Group) -> None:
        self.model, self.config, self.loss, self.group = model, config, loss, group
        self.rows = group

    @abstractmethod
    def accumulate(self, batches: Sequence[TokenBatch], tokens: int) -> float:
        """Gradients of the mean over `tokens`; the summed loss in nats over all ranks."""

    @abstractmethod
    def update(self, lr: float) -> float:
        """Clips, moves the weights and drops the gradients; the global norm before clipping.

        Raises:
            DivergedError: the norm is not finite; on every rank.
        """

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Whole tensors, complete on rank 0; a collective call."""

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Takes this rank's part of what `state` gave, on these or other ranks."""

    def autocast(self) -> torch.autocast:
        """As the one-process loop's."""
        enabled = self.config.dtype == "bfloat16"
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled)

    def clip_factor(self, norm: float) -> float:
        """min(1, clip_norm / norm), as `clipping.clip_gradients`.

        Raises:
            DivergedError: the norm is not finite.
        """
        if not math.isfinite(norm):
            raise DivergedError(
                f"the gradient norm is {norm}: lower lr or clip_norm, or raise warmup_steps"
            )
        if self.config.clip_norm is None:
            return 1.0
        return min(1.0, self.config.clip_norm / (norm + 1e-6))


class RowsEngine(Engine):
    """Data parallelism of any kind: each rank runs its rows through the whole model."""

    @abstractmethod
    def backward(self, batch: TokenBatch, scale: float, *, last: bool) -> Tensor:
        """Backward of scale times the summed loss, which it returns; `last` of the step."""

    def accumulate(self, batches: Sequence[TokenBatch], tokens: int) -> float:
        """Each rank's share, scaled so that the mean over ranks is the whole batch's mean."""
        scale, total = self.rows.size / tokens, 0.0
        for place, batch in enumerate(batches, 1):
            mine = share(batch, self.rows)
            total += self.backward(mine, scale, last=place == len(batches)).item()
        summed = torch.tensor([total], dtype=torch.float64)
        return collectives.all_reduce(summed, self.group).item()


class LossModule(nn.Module):
    """Model and loss as one module, for frameworks that must be called instead of the model."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, batch: TokenBatch) -> Tensor:
        return self.loss(self.model, batch)[0]


def share(batch: TokenBatch, group: Group) -> TokenBatch:
    """This rank's rows of a batch: as many on every rank.

    Where the ranks do not divide the rows, copies of the first are added that nothing is learnt
    from: every rank must take part in every exchange.
    """
    places = torch.arange(len(batch.ids))
    missing = -len(places) % group.size
    places = torch.cat((places, places.new_zeros(missing)))
    mine = places.chunk(group.size)[group.index]
    added = torch.arange(len(places)).chunk(group.size)[group.index] >= len(batch.ids)
    return TokenBatch(
        ids=batch.ids[mine],
        labels=batch.labels[mine].masked_fill(added[:, None], IGNORE_INDEX),
        document_ids=None if batch.document_ids is None else batch.document_ids[mine],
        positions=None if batch.positions is None else batch.positions[mine],
    )


def predicted_tokens(batches: Sequence[TokenBatch]) -> int:
    """Labels that a position before them predicts, in all batches of a step."""
    return sum(map(accumulation.predicted_tokens, batches))


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The decoder's layers, of a MiniLLM or a Llama from transformers."""
    return list(model.get_submodule("model.layers").children())
