"""Activation checkpointing: keep a segment's inputs, run it again when its gradients are due."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SEGMENTS = {"full": "", "selective": "self_attn"}
_REPEATABLE = (Tensor, bool, int, float, str, type(None))


def checkpoint(
    function: Callable[..., Any], *args: Any, parameters: Iterable[Tensor] = (), **kwargs: Any
) -> Any:
    """function(*args, **kwargs), of which autograd keeps the arguments and nothing from within.

    The backward pass runs the function again, from the random state and under the autocast of the
    first time, so that output and gradients are those without checkpointing, bit for bit.
    Memory: the arguments instead of all that the function saves. Time: one forward pass more.

    Paper: arXiv 1604.06174, algorithm 1.
    Differs: parameters are inputs of the segment like any other. So gradients also come where no
    argument requires one (a frozen embedding before it), and `torch.autograd.grad` works.

    Args:
        function: Its result must depend on the arguments, the parameters and torch's random state
            only; it returns a tensor or a tuple of tensors and None.
        parameters: Tensors beside the arguments that are to get a gradient.

    Raises:
        ValueError: An argument is not a tensor, a number, a text, None or a tuple of those, and a
            second run might find it changed (a KV cache); or a tuple's tensor requires a gradient.
    """
    if not torch.is_grad_enabled():
        return function(*args, **kwargs)
    for value in (*args, *kwargs.values()):
        _check_repeatable(value, inside=False)
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    call = _Call(function, tuple(kwargs), len(args))
    return _Checkpoint.apply(call, *args, *kwargs.values(), *trained)


@contextmanager
def checkpointed(model: nn.Module, mode: str = "full") -> Iterator[None]:
    """While the block lasts, the decoder's layers run under `checkpoint`.

    Names and parameters of the model stay as they are.

    Paper: selective recomputation, arXiv 2205.05198, section 5. Differs: all of the attention
    sublayer is run again, its projections too, since torch's kernel keeps no T x S scores anyway.

    Args:
        model: MiniLLM or a transformers Llama: its layers are `model.model.layers`.
        mode: "full" runs each layer again; "selective" its attention only.

    Raises:
        ValueError: An unknown mode, or the model is checkpointed already.
    """
    modules = _segments(model, mode)
    for module in modules:
        parameters = tuple(module.parameters())
        run = partial(checkpoint, module.forward, parameters=parameters)
        module.forward = run
    try:
        yield
    finally:
        for module in modules:
            del module.forward  # the class's own is back


def _segments(model: nn.Module, mode: str) -> Sequence[nn.Module]:
    if mode not in SEGMENTS:
        raise ValueError(f"mode={mode!r} must be one of {list(SEGMENTS)}")
    layers = model.get_submodule("model.layers").children()
    modules = [layer.get_submodule(SEGMENTS[mode]) for layer in layers]
    if any("forward" in vars(module) for module in modules):
        raise ValueError("the model's layers are checkpointed already: leave that block first")
    return modules


def _check_repeatable(value: Any, *, inside: bool) -> None:
    if isinstance(value, tuple):
        for part in value:
            _check_repeatable(part, inside=True)
    elif not isinstance(value, _REPEATABLE):
        raise ValueError(
            f"an argument of type {type(value).__name__} may not be the same when the segment "
            "runs again: pass tensors, numbers and tuples of them, and no cache"
        )
    elif inside and isinstance(value, Tensor) and value.requires_grad:
        raise ValueError("a tensor inside a tuple requires a gradient: pass it as an argument")


class _Call:
    """A function with the names of its arguments, and what it must find when it runs again."""

    def __init__(self, function: Callable[..., Any], names: Sequence[str], count: int) -> None:
        self._function, self._names, self._count = function, names, count
        self.devices: list[torch.device] = []

    @property
    def num_arguments(self) -> int:
        return self._count + len(self._names)

    def run(self, values: Sequence[Any]) -> Any:
        named = dict(zip(self._names, values[self._count :], strict=True))
        return self._function(*values[: self._count], **named)

    def remember(self, values: Sequence[Any]) -> None:
        """Takes down the random states and autocast, before the first run."""
        tensors = [value for value in values if isinstance(value, Tensor)]
        self.devices = sorted({x.device for x in tensors if x.is_cuda}, key=str)
        self._states = [torch.cuda.get_rng_state(device) for device in self.devices]
        self._cpu_state = torch.get_rng_state()
        kind = tensors[0].device.type if tensors else "cpu"
        self._autocast = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)

    def again(self, values: Sequence[Any]) -> Any:
        """The second run; the random state of the caller stays as it is."""
        with torch.random.fork_rng(devices=self.devices), torch.autocast(*self._autocast):
            torch.set_rng_state(self._cpu_state)
            for device, state in zip(self.devices, self._states, strict=True):
                torch.cuda.set_rng_state(state, device)
            with torch.enable_grad():
                return self.run(values)


@torch.enable_grad()
def _as_before(values: Sequence[Any], ctx: Any) -> list[Any]:
    """Arguments that are leaves only where they were: autocast casts a leaf once, others anew."""
    again = list(values)
    for place, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
        if place < len(again) and not tensor.is_leaf:
            again[place] = values[place].view_as(values[place])
    return again


class _Checkpoint(torch.autograd.Function):
    """Inputs are the call, its arguments, and the parameters that train."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *values: Any) -> Any:
        call.remember(values)
        ctx.call = call
        ctx.places = [place for place, value in enumerate(values) if isinstance(value, Tensor)]
        ctx.values = [None if isinstance(value, Tensor) else value for value in values]
        ctx.save_for_backward(*(values[place] for place in ctx.places))
        return call.run(values[: call.num_arguments])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        values, count = list(ctx.values), ctx.call.num_arguments
        for place, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
            # A parameter is found by the function itself; an argument begins a graph of its own.
            alone = tensor.detach().requires_grad_(tensor.requires_grad)
            values[place] = tensor if place >= count else alone
        outputs = ctx.call.again(_as_before(values[:count], ctx))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        pairs = [
            (output, gradient)
            for output, gradient in zip(outputs, gradients, strict=True)
            if isinstance(output, Tensor) and output.requires_grad
        ]
        wanted = [p for p in ctx.places if ctx.needs_input_grad[p + 1]]
        found = torch.autograd.grad(
            [output for output, _ in pairs],
            [values[place] for place in wanted],
            [gradient for _, gradient in pairs],
            allow_unused=True,
        )
        by_place = dict(zip(wanted, found, strict=True))
        return None, *(by_place.get(place) for place in range(len(values)))
