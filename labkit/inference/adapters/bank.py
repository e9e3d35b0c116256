"""LoRA adapters mounted over one base model, for batches in which each row has its own.

A sketch of a step of an engine, whose batch is N tokens with a slot each:

    grouping = bank.group(slots)
    qkv = x @ W_qkv.T
    bank.add_fused(qkv, x, layer, ("q_proj", "k_proj", "v_proj"), grouping)
"""

import threading
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labkit.inference.adapters import checks
from labkit.inference.adapters.deltas import Deltas
from labkit.inference.adapters.grouped import Grouping, group_rows
from labkit.inference.adapters.names import BASE, parse_name
from labkit.inference.adapters.roster import Roster
from labkit.inference.adapters.stacks import Stacks
from labkit.model.config import ModelConfig
from labkit.tuning.adapter_files import Adapter


class AdapterBank:
    """Mounts, names and counts adapters, and adds each row's own to a projection's output.

    Mounting is safe while other threads run batches: an adapter is complete before its name means
    it, and its weights stay until the last request on it is released.

    Args:
        config: of the base model.
        dtype: of the base's activations; the adapters are rounded to it.
        device: of the base.
        max_rank: highest R taken.
        max_adapters: most that are mounted at a time; those that drain come on top.
        max_bytes: most bytes that all adapters' weights may take; None: no limit.
        base_fingerprint: of the base (`fingerprint.fingerprint`); adapters that record another one
            are refused.

    Raises:
        ValueError: a limit is below 1.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        max_rank: int,
        max_adapters: int,
        max_bytes: int | None = None,
        base_fingerprint: str | None = None,
    ) -> None:
        if min(max_rank, max_adapters, max_bytes or 1) < 1:
            raise ValueError(f"{max_rank=}, {max_adapters=} and {max_bytes=} must be at least 1")
        self.config, self.dtype, self.device = config, dtype, torch.device(device)
        self.max_rank, self.base_fingerprint = max_rank, base_fingerprint
        self._mounting = threading.Lock()
        self._roster = Roster(max_adapters)
        self._stacks = Stacks(
            config, dtype=dtype, device=self.device, max_slots=max_adapters + 1, max_bytes=max_bytes
        )
        self._deltas = Deltas(config, self._stacks, dtype)

    def mount(self, name: str, source: str | Path | Adapter, *, keep_older: bool = False) -> int:
        """Check an adapter, load it, and let its name mean it from then on.

        Args:
            name: `finance` takes the next version, `finance@v3` that one. Either way `finance` then
                means the new version, and requests that run keep theirs.
            source: a folder in PEFT's format, or an adapter read from one.
            keep_older: leave earlier versions mounted, under their names with a version; otherwise
                they are unmounted.

        Returns:
            Its slot.

        Raises:
            AdapterError: it is refused, for the reason that the exception's class says. Whatever
                was mounted still is.
        """
        parse_name(name)
        if not isinstance(source, Adapter):
            source = checks.read(source, self.config, self.max_rank, self.base_fingerprint)
        found = checks.factors(source, self.config, max_rank=self.max_rank, dtype=self.dtype)
        rank = next(iter(found.values())).A.shape[0]
        # Outside of inference mode: its tensors could not be overwritten by a later mount.
        with self._mounting, torch.inference_mode(mode=False), torch.no_grad():
            entry = self._roster.reserve(name, rank, frozenset(found), keep_older=keep_older)
            try:
                self._stacks.write(entry.slot, found, rank)
            except BaseException:
                self._roster.cancel(entry)
                raise
            self._roster.publish(entry, keep_older=keep_older)
        return entry.slot

    def unmount(self, name: str) -> bool:
        """Take an adapter off; one that requests run on takes no more, and goes with the last.

        Returns:
            Whether it is gone at once.

        Raises:
            UnknownAdapterError: nothing is mounted under the name.
        """
        return self._roster.retire(name)

    def alias(self, alias: str, name: str) -> None:
        """Let another name mean a mounted adapter, until that is unmounted.

        Raises:
            AdapterNameError: the alias is malformed, or names a version.
            UnknownAdapterError: the adapter is not mounted.
        """
        self._roster.alias(alias, name)

    def acquire(self, which: int | str) -> int:
        """Count a request in, so that its adapter stays; `release` must follow.

        Do it by name: after `slot(name)` the slot may have been given to another adapter.

        Returns:
            The slot.

        Raises:
            UnknownAdapterError: nothing is there that takes requests.
        """
        return 0 if which in (0, BASE) else self._roster.acquire(which).slot

    def release(self, slot: int) -> None:
        """Count a request out, after the last step it took part in.

        Raises:
            ValueError: there is none on the slot.
        """
        if slot != 0:
            self._roster.release(slot)

    def slot(self, name: str) -> int:
        """The slot of a name with or without a version; 0 for `__base__`.

        Raises:
            UnknownAdapterError: nothing is mounted under it.
        """
        return 0 if name == BASE else self._roster.find(name).slot

    def uid(self, slot: int) -> int:
        """A number that no other mount in this process ever has, for caches; 0 for the base.

        Raises:
            UnknownAdapterError: the slot is empty.
        """
        return 0 if slot == 0 else self._roster.at(slot).uid

    @property
    def names(self) -> tuple[str, ...]:
        """Names with versions that take requests, by slot."""
        return self._roster.names

    @property
    def aliases(self) -> dict[str, str]:
        """The name with its version that each name without one means."""
        return self._roster.aliases

    @property
    def draining(self) -> tuple[str, ...]:
        """Names of those unmounted whose requests still run."""
        return tuple(e.name for e in self._roster.entries if e.state == "draining")

    @property
    def requests(self) -> dict[str, int]:
        """How many requests run on each, by name with version; those that drain included."""
        return {entry.name: entry.requests for entry in self._roster.entries}

    @property
    def nbytes(self) -> int:
        """Memory of the adapters' weights, room for further ones included."""
        return self._stacks.nbytes

    def group(self, slots: Int[Tensor, "N"], *, plan: str = "auto") -> Grouping:
        """Sort a step's rows by adapter, once for all its layers; nothing to do if all are base.

        Args:
            slots: of each row's adapter, best on the CPU. Rows of one adapter that lie together,
                in the order of slots, are not moved.
            plan: see `grouped.group_rows`.

        Raises:
            UnknownAdapterError: a slot is empty.
        """
        slots = slots.cpu()
        if not slots.any():
            return Grouping(num_rows=len(slots), parts=())
        used = {slot: self._roster.at(slot) for slot in slots.unique().tolist() if slot}
        return group_rows(slots, used, device=self.device, plan=plan)

    def add_delta(
        self,
        y: Float[Tensor, "N O"],
        x: Float[Tensor, "N I"],
        layer: int,
        target: str,
        grouping: Grouping,
    ) -> None:
        """y_i += scaling * (x_i A^T) B^T for each row's adapter, in place; base rows stay.

        Args:
            y: the projection's output; columns of a larger one will do.
            x: its input.
            layer: of the model, from 0.
            target: "q_proj" and the like.
            grouping: of these rows, from `group`.

        Raises:
            ValueError: shapes, dtypes or the target do not fit the bank.
        """
        self._stacks.group_of(target)
        self._deltas.add(y, x, layer, (target,), grouping)

    def add_fused(
        self,
        y: Float[Tensor, "N O"],
        x: Float[Tensor, "N I"],
        layer: int,
        targets: tuple[str, ...],
        grouping: Grouping,
    ) -> None:
        """`add_delta` for projections of one input whose outputs lie side by side in y.

        Args:
            y: outputs, in the order of `targets`.
            x: the input of all.
            layer: of the model, from 0.
            targets: ("q_proj", "k_proj", "v_proj") or ("gate_proj", "up_proj").
            grouping: of these rows, from `group`.

        Raises:
            ValueError: as `add_delta`, or the targets do not share an input.
        """
        if targets != self._stacks.group_of(targets[0]):
            raise ValueError(
                f"targets={targets} are no fused projection; "
                f"with {targets[0]} go {self._stacks.group_of(targets[0])}, in this order"
            )
        self._deltas.add(y, x, layer, targets, grouping)

    def check_integrity(self) -> None:
        """Raise AssertionError where names, counts and weights contradict each other."""
        self._roster.check_integrity()
        self._stacks.check_integrity({e.slot: (e.rank, e.places) for e in self._roster.entries})
