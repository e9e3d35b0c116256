"""The weights of all mounted adapters, stacked so that one product serves several of them.

For each layer and each group of projections with one input: A of shape (slots, projections, R, I)
and a B of shape (slots, R, O) for each projection. Adapters of lower rank, and projections that an
adapter leaves alone, are zero there. A stack grows with the highest slot and rank in use, by
copying: readers keep whichever they hold, and both have every live slot.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.inference.adapters.checks import Factors
from labkit.inference.adapters.errors import AdapterCapacityError
from labkit.inference.adapters.places import Place, groups, shapes
from labkit.model.config import ModelConfig


class Stack(NamedTuple):
    """One group's weights; slot s is at index s - 1."""

    A: Float[Tensor, "slots n R I"]
    Bs: tuple[Float[Tensor, "slots R _"], ...]


class Stacks:
    """Every group's stack, of those that some adapter has touched.

    One thread at a time may `write`; others may read meanwhile.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        dtype: torch.dtype,
        device: torch.device,
        max_slots: int,
        max_bytes: int | None,
    ) -> None:
        self._dtype, self._device = dtype, device
        self._max_slots, self._max_bytes = max_slots, max_bytes
        self._shapes = shapes(config)
        self._group_of = {target: group for group in groups(config) for target in group}
        self._stacks: dict[tuple[int, tuple[str, ...]], Stack] = {}
        self._slots = 0

    def group_of(self, target: str) -> tuple[str, ...]:
        """The targets, in order, that share this one's input.

        Raises:
            ValueError: the model has no such target.
        """
        if target not in self._group_of:
            known = ", ".join(self._group_of)
            raise ValueError(f"target {target!r} is none of this model's: {known}")
        return self._group_of[target]

    def find(self, layer: int, group: tuple[str, ...]) -> Stack:
        """A group's stack, which some adapter has touched."""
        return self._stacks[layer, group]

    def write(self, slot: int, factors: Mapping[Place, Factors], rank: int) -> None:
        """Fill a slot: whatever stood there before is gone from every stack.

        Raises:
            AdapterCapacityError: that would take more than `max_bytes`; nothing has changed.
        """
        self._check_bytes(slot, factors, rank)
        self._slots = self._grown_slots(slot)
        touched = {(at.layer, self._group_of[at.target]) for at in factors}
        for key in touched | set(self._stacks):
            stack = self._grown(key, rank if key in touched else 0)
            for rows in (stack.A, *stack.Bs):
                rows[slot - 1].zero_()
            for n, target in enumerate(key[1]):
                if (at := Place(key[0], target)) in factors:
                    stack.A[slot - 1, n, :rank] = factors[at].A
                    stack.Bs[n][slot - 1, :rank] = factors[at].B
            self._stacks[key] = stack

    @property
    def nbytes(self) -> int:
        """Memory of all stacks."""
        return sum(rows.nbytes for stack in list(self._stacks.values()) for rows in _parts(stack))

    def check_integrity(self, ranks: Mapping[int, tuple[int, frozenset[Place]]]) -> None:
        """Raise AssertionError where a live slot holds more than its adapter's rank and places."""
        for (layer, group), stack in self._stacks.items():
            assert all(len(rows) == self._slots for rows in _parts(stack)), (layer, group)
            for slot, (rank, places) in ranks.items():
                for n, target in enumerate(group):
                    used = rank if Place(layer, target) in places else 0
                    assert not stack.A[slot - 1, n, used:].any(), (slot, layer, target)
                    assert not stack.Bs[n][slot - 1, used:].any(), (slot, layer, target)

    def _check_bytes(self, slot: int, factors: Mapping[Place, Factors], rank: int) -> None:
        touched = {(at.layer, self._group_of[at.target]) for at in factors}
        slots, need = self._grown_slots(slot), 0
        for key in touched | set(self._stacks):
            held = self._stacks[key].A.shape[2] if key in self._stacks else 0
            R = max(held, rank if key in touched else 0)
            A_and_B = (len(key[1]) * self._shapes[key[1][0]].inputs, *self._outputs(key[1]))
            need += slots * R * sum(A_and_B) * self._dtype.itemsize
        if self._max_bytes is not None and need > self._max_bytes:
            raise AdapterCapacityError(
                f"the adapters would take {need} bytes, above max_bytes={self._max_bytes}: unmount "
                "one, or take a lower rank or fewer targets"
            )

    def _outputs(self, group: tuple[str, ...]) -> list[int]:
        return [self._shapes[target].outputs for target in group]

    def _grown_slots(self, slot: int) -> int:
        """Doubled as often as it takes: the copies of all mounts together cost about one more."""
        doubled = 1 << (slot - 1).bit_length()
        return max(self._slots, min(doubled, self._max_slots))

    def _grown(self, key: tuple[int, tuple[str, ...]], rank: int) -> Stack:
        old = self._stacks.get(key)
        R = max(rank, 0 if old is None else old.A.shape[2])
        if old is not None and (self._slots, R) == (len(old.A), old.A.shape[2]):
            return old
        new = Stack(
            self._zeros(len(key[1]), R, self._shapes[key[1][0]].inputs),
            tuple(self._zeros(R, outputs) for outputs in self._outputs(key[1])),
        )
        if old is not None:
            for rows, kept in zip(_parts(new), _parts(old), strict=True):
                rows[: len(kept), ..., : kept.shape[-2], :] = kept
        return new

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(self._slots, *shape, dtype=self._dtype, device=self._device)


def _parts(stack: Stack) -> tuple[Tensor, ...]:
    return (stack.A, *stack.Bs)
