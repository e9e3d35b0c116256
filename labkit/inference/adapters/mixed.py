"""A plain MiniLLM whose batch rows each run under their own adapter; the readable way to serve.

It changes nothing in the model: hooks behind the projections add each row's share, and the context
takes them off again. An engine calls the bank itself and needs none of this.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from labkit.inference.adapters.bank import AdapterBank
from labkit.inference.adapters.grouped import Grouping
from labkit.inference.adapters.places import Place, places
from labkit.model.minillm import MiniLLM
from labkit.tuning import adapted

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]
_open = threading.local()


@contextmanager
def mixed(model: MiniLLM, bank: AdapterBank, names: Sequence[str]) -> Iterator[MiniLLM]:
    """Within the context, row b of a batch runs under the adapter `names[b]`.

    For `forward`, and for `generate` with as many prompts. Gradients are off. The adapters are
    acquired, so that they stay mounted; other threads' use of the model is not touched.

    Args:
        model: the bank's base, without adapters of its own.
        bank: holds the adapters.
        names: one a row; "__base__" for none.

    Raises:
        UnknownAdapterError: a name means nothing mounted.
        ValueError: the model is of another shape than the bank's, or this thread is within another
            such context. Within: a batch has not as many rows as there are names.
    """
    if model.config != bank.config:
        raise ValueError(f"the model is {model.config}, and the bank was built for {bank.config}")
    if getattr(_open, "model", None) is not None:
        raise ValueError("contexts of mixed adapters do not nest: name every row's adapter in one")
    adapted.refuse_adapted(model)
    with ExitStack() as stack:
        slots = []
        for name in names:
            slots.append(bank.acquire(name))
            stack.callback(bank.release, slots[-1])
        rows = _Rows(bank, slots)
        for path, place in places(model.config).items():
            hook = model.get_submodule(path).register_forward_hook(rows.hook(place))
            stack.callback(hook.remove)
        _open.model = model
        stack.callback(setattr, _open, "model", None)
        stack.enter_context(torch.no_grad())
        yield model


class _Rows:
    """The batch's slots, and its grouping for each length of input."""

    def __init__(self, bank: AdapterBank, slots: list[int]) -> None:
        self._bank = bank
        self._slots = torch.tensor(slots, dtype=torch.long)
        self._thread = threading.get_ident()
        self._length, self._grouping = 0, bank.group(self._slots[:0])

    def hook(self, place: Place) -> Hook:
        """Adds the rows' share to a projection's output, (B, T, I) -> (B, T, O)."""

        def add(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
            if threading.get_ident() == self._thread:
                [x] = args
                grouping = self._of(*x.shape[:2])
                rows = x.flatten(0, 1), place.layer, place.target, grouping
                self._bank.add_delta(y.view(-1, y.shape[-1]), *rows)

        return add

    def _of(self, B: int, T: int) -> Grouping:
        if len(self._slots) != B:
            raise ValueError(f"{len(self._slots)} adapter names for a batch of {B} rows")
        if self._length != T:
            self._length = T
            self._grouping = self._bank.group(self._slots.repeat_interleave(T))
        return self._grouping
