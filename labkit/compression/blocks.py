"""A decoder taken apart: its blocks, what each is called with, and running one alone."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Observer = Callable[[Tensor], None]


def decoder_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The model's blocks by name: its largest `nn.ModuleList`, or else the model itself as ""."""
    lists = {name: m for name, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    if not lists:
        return {"": model}
    name = max(lists, key=lambda key: sum(p.numel() for p in lists[key].parameters()))
    return {f"{name}.{index}": block for index, block in enumerate(lists[name])}


@dataclass(frozen=True, slots=True)
class Call:
    """What a block is called with besides the hidden states: masks, positions, options."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def capture(
    model: nn.Module, blocks: list[nn.Module], batches: Iterable[Tensor]
) -> tuple[list[Tensor], list[list[Call]]]:
    """Runs the model up to its last block, the blocks themselves being skipped.

    Returns:
        The first block's hidden states per batch, and the calls of every block per batch.

    Raises:
        ValueError: there is no batch, or the blocks are not called in order.
    """
    takes_cache = "use_cache" in inspect.signature(model.forward).parameters
    options = {"use_cache": False} if takes_cache else {}  # a cache would grow at every run
    device = next(model.parameters()).device
    hidden: list[Tensor] = []
    calls: list[list[Call]] = [[] for _ in blocks]
    with torch.no_grad(), ExitStack() as stack:
        for index, block in enumerate(blocks):
            stack.enter_context(_recorded(block, index, hidden, calls))
        for batch in batches:
            try:
                model(batch.to(device), **options)
            except _Captured:
                continue
            raise ValueError("the model's forward never reached its last block")
    if not hidden:
        raise ValueError("calibration needs at least one batch, got none")
    return hidden, calls


@torch.no_grad()
def run_block(
    block: nn.Module,
    hidden: list[Tensor],
    calls: list[Call],
    observers: Mapping[nn.Module, Observer],
    *,
    advance: bool,
) -> None:
    """Runs one block on every batch.

    Args:
        block: the block to run.
        hidden: its inputs; replaced in place by its outputs where `advance` is set.
        calls: its other arguments per batch.
        observers: each is handed the inputs (N, I) of its module.
        advance: keep the outputs; otherwise only the observers see anything.
    """
    handles = [
        module.register_forward_pre_hook(_observing(observer))
        for module, observer in observers.items()
    ]
    try:
        for index, call in enumerate(calls):
            output = block(hidden[index], *call.args, **call.kwargs)
            if advance:
                hidden[index] = output[0] if isinstance(output, tuple) else output
    finally:
        for handle in handles:
            handle.remove()


def _observing(observer: Observer) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        observer(inputs[0].reshape(-1, inputs[0].shape[-1]))  # (B, T, I) -> (N, I)

    return hook


class _Captured(Exception):  # noqa: N818 - a signal, not an error
    """Ends a forward pass once every block's call is known."""


@contextmanager
def _recorded(
    block: nn.Module, index: int, hidden: list[Tensor], calls: list[list[Call]]
) -> Iterator[None]:
    """Lets a block record its call and hand its hidden states on untouched."""

    def record(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if index == 0:
            hidden.append(x)
        calls[index].append(Call(args, kwargs))
        if index == len(calls) - 1:
            raise _Captured
        return x

    wrapped = vars(block).get("forward")  # some libraries wrap forward on the instance
    setattr(block, "forward", record)  # noqa: B010 - a type checker forbids assigning a method
    try:
        yield
    finally:
        del block.forward
        if wrapped is not None:
            setattr(block, "forward", wrapped)  # noqa: B010
