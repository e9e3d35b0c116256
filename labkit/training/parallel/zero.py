"""ZeRO: data parallelism that keeps optimizer state, gradients and parameters once, not n times.

Paper: arXiv 1910.02054, section 5 (stages), section 7 (traffic), figure 1 (memory).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from labkit.training.parallel import collectives
from labkit.training.parallel.collectives import Group
from labkit.training.parallel.zero_unit import MakeOptimizer, Unit


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes of model state on one rank."""

    parameters: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """Their sum."""
        return self.parameters + self.gradients + self.optimizer


def zero_memory(num_parameters: int, n: int, stage: int, *, item_bytes: int = 2) -> Memory:
    """Bytes per rank with Adam: (2 + 2 + 12) Psi, of which stage s divides s parts by n.

    Stage 0 (plain data parallelism) divides nothing, 1 the optimizer's 12 Psi (float32 parameters,
    mean, variance), 2 the gradients too, 3 the parameters too. Exact where n divides each unit's
    parameters; else each unit's are rounded up to a multiple of n.

    Args:
        num_parameters: Psi.
        n: ranks.
        stage: 0 to 3.
        item_bytes: of one parameter or gradient in the model's dtype.

    Raises:
        ValueError: there is no such stage.
    """
    if stage not in (0, 1, 2, 3):
        raise ValueError(f"stage={stage} must be 0, 1, 2 or 3")
    part = -(-num_parameters // n)
    return Memory(
        parameters=item_bytes * (part if stage == 3 else num_parameters),
        gradients=item_bytes * (part if stage >= 2 else num_parameters),
        optimizer=12 * (part if stage >= 1 else num_parameters),
    )


def zero_traffic(size: int, n: int, stage: int) -> float:
    """Bytes one rank sends in a step: 2 (n - 1) / n * size as an all-reduce; 1.5 times it in 3.

    Stages 1 and 2 reduce-scatter gradients and gather parameters once; stage 3 gathers them twice,
    for forward and again for backward.
    """
    return collectives.all_reduce_bytes(size, n) * (1.5 if stage == 3 else 1.0)


class Zero:
    """Trains `model` over `group` with ZeRO: call backward on every rank, then `step`.

    Each rank's loss is the mean over an equal part of the batch. Stages 2 and 3 reduce a unit's
    gradients as soon as backward has them all, also when accumulating; stage 1 reduces in `step`.
    Frozen parameters stay whole on every rank, in stage 3 too. To clip, call `gradient_norm` and
    `scale_gradients` before `step`.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[nn.Module],
        group: Group,
        make_optimizer: MakeOptimizer,
        *,
        stage: int,
    ) -> None:
        """Moves the parameters into flat units, rank 0's values everywhere.

        Args:
            model: returns one tensor, as must each block.
            blocks: modules of the model that are gathered one at a time in stage 3; the remaining
                parameters make one more unit, which stays for the whole forward pass.
            group: the ranks.
            make_optimizer: an element-wise optimizer for given parameters; one per unit.
            stage: 1, 2 or 3.

        Raises:
            ValueError: there is no such stage, or every parameter is frozen.
        """
        if stage not in (1, 2, 3):
            raise ValueError(f"stage={stage} must be 1, 2 or 3; DataParallel divides nothing")
        self.stage, self.group = stage, group
        owners = _owners(model, blocks)
        for tensor in (*model.buffers(), *(p for p in model.parameters() if not p.requires_grad)):
            collectives.broadcast(tensor.detach(), group)
        self.units = [Unit(parameters, group, make_optimizer) for _, parameters in owners]
        for (module, _), unit in zip(owners, self.units, strict=True):
            self._hook_gradients(unit)
            if stage == 3:
                unit.free()
                _hook_module(module, unit)

    def step(self) -> None:
        """Updates the parameters from the gradients since the last step, and drops these.

        Raises:
            ValueError: backward did not reach some parameter.
        """
        self._reduced()
        for unit in self.units:
            unit.update()

    def gradient_norm(self) -> Tensor:
        """Euclidean norm of the mean gradient as one vector; one number is reduced over ranks.

        Raises:
            ValueError: as `step`.
        """
        squares = torch.stack([g.float().square().sum() for g in self._reduced()]).sum()
        total = collectives.all_reduce(squares.reshape(1), self.group)[0]
        return total.sqrt() / self.group.size

    def scale_gradients(self, factor: float) -> None:
        """Multiplies what `step` will use."""
        for gradient in self._reduced():
            gradient.mul_(factor)

    def gather(self) -> None:
        """Fills all parameters, for evaluation or a checkpoint; the next forward frees them."""
        for unit in self.units:
            unit.gather()

    def memory(self) -> Memory:
        """Bytes that tensors hold on this rank now; before `step`, gradients are there."""
        full = [u.flat.untyped_storage().nbytes() for u in self.units]
        shards = [_bytes(u.shard) for u in self.units]
        gradients = [_bytes(u.gradient) for u in self.units]
        gradients += [_bytes(p.grad) for u in self.units for p in u.parameters]
        states = [s for u in self.units for s in u.optimizer.state.values()]
        moments = sum(_bytes(v) for s in states for k, v in s.items() if k != "step")
        return Memory(
            parameters=sum(full) + sum(shards),
            gradients=sum(gradients),
            optimizer=moments + sum(_bytes(u.master) for u in self.units),
        )

    def _reduced(self) -> list[Tensor]:
        """This rank's chunks of the summed gradients."""
        for unit in self.units:
            if self.stage == 1 and not unit.missing:
                unit.reduce()
        gradients = [unit.gradient for unit in self.units if unit.gradient is not None]
        if len(gradients) < len(self.units):
            unit = next(unit for unit in self.units if unit.gradient is None)
            raise ValueError(
                f"backward missed {len(unit.missing)} of a unit's {len(unit.parameters)} "
                "parameters: ZeRO reduces whole units, so the loss must use them all"
            )
        return gradients

    def _hook_gradients(self, unit: Unit) -> None:
        for place, parameter in enumerate(unit.parameters):

            def ready(_: Tensor, place: int = place) -> None:
                unit.missing.discard(place)
                if self.stage >= 2 and not unit.missing:
                    unit.reduce()
                    if self.stage == 3:
                        unit.free()

            parameter.register_post_accumulate_grad_hook(ready)


def _owners(
    model: nn.Module, blocks: Sequence[nn.Module]
) -> list[tuple[nn.Module, list[nn.Parameter]]]:
    """Modules with their trainable parameters: the blocks, then the model with the remaining."""
    owned = [(block, [p for p in block.parameters() if p.requires_grad]) for block in blocks]
    inside = {p for _, parameters in owned for p in parameters}
    rest = [p for p in model.parameters() if p.requires_grad and p not in inside]
    owners = [(module, parameters) for module, parameters in [*owned, (model, rest)] if parameters]
    if not owners:
        raise ValueError("no parameter requires a gradient: there is nothing to divide")
    return owners


def _hook_module(module: nn.Module, unit: Unit) -> None:
    """Parameters come before forward and before backward, and go after each."""

    def leave(module: nn.Module, inputs: object, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda _: unit.gather())
        unit.free()

    module.register_forward_pre_hook(lambda *_: unit.gather())
    module.register_forward_hook(leave)


def _bytes(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.numel() * tensor.element_size()
