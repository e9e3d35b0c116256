"""Engines on this package's own data parallelism and ZeRO."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from labkit.data.batch import TokenBatch
from labkit.training import checkpoint
from labkit.training.clipping import gradient_norm
from labkit.training.config import TrainConfig
from labkit.training.loop import Loss, build_optimizer
from labkit.training.parallel.collectives import Group
from labkit.training.parallel.data_parallel import DataParallel
from labkit.training.parallel.engine import RowsEngine, blocks_of
from labkit.training.parallel.zero import Zero
from labkit.training.parallel.zero_checkpoint import load_state, whole_state
from labkit.training.parallel.zero_unit import Unit


class ReplicatedEngine(RowsEngine):
    """Every rank has all weights and the whole optimizer; equal gradients keep them equal."""

    def __init__(self, model: nn.Module, config: TrainConfig, loss: Loss, group: Group) -> None:
        super().__init__(model, config, loss, group)
        self.optimizer = build_optimizer(model, config)
        self.trainable = [p for p in model.parameters() if p.requires_grad]

    def update(self, lr: float) -> float:
        """As the one-process loop."""
        norm = gradient_norm(self.trainable).item()
        factor = self.clip_factor(norm)
        for parameter in self.trainable:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def state(self) -> dict[str, Tensor]:
        """The one-process loop's own."""
        return checkpoint.training_state(self.model, self.optimizer)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The same on every rank."""
        checkpoint.restore_training_state(self.model, self.optimizer, tensors)


class DataParallelEngine(ReplicatedEngine):
    """`data_parallel.DataParallel`."""

    def __init__(self, model: nn.Module, config: TrainConfig, loss: Loss, group: Group) -> None:
        super().__init__(model, config, loss, group)
        self.parallel = DataParallel(model, group, unused="zeros")

    def backward(self, batch: TokenBatch, scale: float, *, last: bool) -> Tensor:
        """Buckets travel in the step's last backward only."""
        with nullcontext() if last else self.parallel.no_sync():
            with self.autocast():
                loss_sum, _ = self.loss(self.model, batch)
            (scale * loss_sum).backward()
        if last:
            self.parallel.finish()
        return loss_sum.detach()


class ZeroEngine(RowsEngine):
    """`zero.Zero`; weight decay, which spares vectors, is applied to the chunks here."""

    def __init__(
        self, model: nn.Module, config: TrainConfig, loss: Loss, group: Group, *, stage: int
    ) -> None:
        super().__init__(model, config, loss, group)
        names = {p: name for name, p in model.named_parameters()}

        def adam(parameters: list[nn.Parameter]) -> AdamW:
            return AdamW(parameters, lr=config.lr, betas=config.betas, weight_decay=0.0)

        self.zero = Zero(model, blocks_of(model), group, adam, stage=stage)
        self.names = [[names[p] for p in unit.parameters] for unit in self.zero.units]

    def backward(self, batch: TokenBatch, scale: float, *, last: bool) -> Tensor:
        """Stages 2 and 3 reduce in every backward."""
        with self.autocast():
            loss_sum, _ = self.loss(self.model, batch)
        (scale * loss_sum).backward()
        return loss_sum.detach()

    def update(self, lr: float) -> float:
        """AdamW on this rank's chunks."""
        norm = self.zero.gradient_norm().item()
        self.zero.scale_gradients(self.clip_factor(norm))
        for unit in self.zero.units:
            set_lr(unit.optimizer, lr)
            for piece in matrix_pieces(unit):
                piece.mul_(1 - lr * self.config.weight_decay)
        self.zero.step()
        return norm

    def state(self) -> dict[str, Tensor]:
        """Whole flat units, cut into parameters."""
        state = {f"model.{name}": buffer for name, buffer in stored_buffers(self.model).items()}
        units = zip(self.zero.units, self.names, whole_state(self.zero), strict=True)
        for unit, names, saved in units:
            flats = {"model.{}": saved["master"]}
            flats |= {f"optimizer.{{}}.{slot}": value for slot, value in saved["optimizer"].items()}
            for pattern, flat in flats.items():
                pieces = flat.split(unit.sizes) if flat.ndim else [flat] * len(names)
                for name, parameter, piece in zip(names, unit.parameters, pieces, strict=True):
                    shaped = piece.view(parameter.shape) if flat.ndim else piece
                    state[pattern.format(name)] = shaped.clone()
        return state

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Joins the parameters of each unit."""
        with torch.no_grad():
            for name, buffer in stored_buffers(self.model).items():
                buffer.copy_(tensors[f"model.{name}"])
        load_state(self.zero, [_unit_state(names, tensors) for names in self.names])


def _unit_state(names: Sequence[str], tensors: dict[str, Tensor]) -> dict[str, object]:
    prefix = f"optimizer.{names[0]}."
    slots = [key.removeprefix(prefix) for key in tensors if key.startswith(prefix)]

    def joined(pattern: str) -> Tensor:
        found = [tensors[pattern.format(name)] for name in names]
        return torch.cat([t.reshape(-1) for t in found]) if found[0].ndim else found[0]

    state = {slot: joined(f"optimizer.{{}}.{slot}") for slot in slots}
    return {"master": joined("model.{}"), "optimizer": state}


@torch.no_grad()
def matrix_pieces(unit: Unit) -> list[Tensor]:
    """Views of this rank's chunk that belong to matrices, which alone decay."""
    width = len(unit.master)
    start = unit.group.index * width
    pieces, offset = [], 0
    for parameter, size in zip(unit.parameters, unit.sizes, strict=True):
        low, high = max(offset, start), min(offset + size, start + width)
        if parameter.ndim >= 2 and low < high:
            pieces.append(unit.master.detach()[low - start : high - start])
        offset += size
    return pieces


def stored_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that a state dict holds."""
    stored = model.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in model.named_buffers() if name in stored}


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """In every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
