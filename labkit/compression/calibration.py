"""The one layer-by-layer driver: feed calibration text, keep streaming statistics, compress.

Blocks are walked in order. Only the hidden states between two blocks are kept (N x D), and the
statistics of one block; every compressed block is run again, so that the next one is calibrated
on the inputs it will really get.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from labkit.compression.blocks import Observer, capture, decoder_blocks, run_block
from labkit.compression.errors import hessian_error, relative_error
from labkit.compression.statistics import HessianStats, Stats

S = TypeVar("S", bound=Stats)
R = TypeVar("R", bound="Tensor | Compressed")


@runtime_checkable
class Compressed(Protocol):
    """A compressed weight that can say which dense weight it stands for."""

    def dequantize(self) -> Float[Tensor, "O I"]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibratedLayer(Generic[S]):
    """One linear layer of the block at hand, with the statistics of its inputs."""

    name: str
    linear: nn.Linear
    stats: S


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerReport:
    """What compression did to one layer.

    `relative_error` is ||dW||_F / ||W||_F; `hessian_error` is the layer's mean squared output error
    on the calibration tokens, tr(dW H dW^T), or None where the statistics hold no Hessian.
    """

    name: str
    relative_error: float
    hessian_error: float | None


def calibration_windows(
    ids: Int[Tensor, "N"], *, length: int, count: int, generator: torch.Generator
) -> Int[Tensor, "count length"]:
    """Draws `count` windows of `length` tokens from a text, at uniformly random places."""
    if not 0 < length <= ids.shape[0]:
        raise ValueError(f"length={length} must lie between 1 and the text's {ids.shape[0]} tokens")
    starts = torch.randint(ids.shape[0] - length + 1, (count, 1), generator=generator)
    return ids[starts + torch.arange(length)]


def calibrate(
    model: nn.Module,
    batches: Iterable[Tensor],
    make_stats: Callable[[int], S],
    *,
    layers: Sequence[str] | None = None,
) -> dict[str, S]:
    """Statistics of the inputs of every linear layer of the unmodified model.

    Args:
        model: any model whose blocks lie in an `nn.ModuleList`; without one the whole model is a
            single block.
        batches: token ids (B, T), without padding: every position counts.
        make_stats: builds empty statistics from a layer's input width, such as `HessianStats`.
        layers: full names, or last parts of names such as "down_proj"; all of the blocks' if None.

    Returns:
        Statistics by the layer's full name. All are held at once; `compress` holds one block's.

    Raises:
        ValueError: there is no batch, no linear layer, or no layer of a given name.
    """
    walked = walk(model, batches, make_stats, layers=layers, rerun=False)
    return {layer.name: layer.stats for block in walked for layer in block}


def compress(
    model: nn.Module,
    batches: Iterable[Tensor],
    make_stats: Callable[[int], S],
    compress_fn: Callable[[Tensor, S], R],
    *,
    layers: Sequence[str] | None = None,
    to_module: Callable[[nn.Linear, R], nn.Module] | None = None,
) -> list[LayerReport]:
    """Compresses a model in place, block by block; see `compress_layers`, which it exhausts."""
    return list(
        compress_layers(model, batches, make_stats, compress_fn, layers=layers, to_module=to_module)
    )


def compress_layers(
    model: nn.Module,
    batches: Iterable[Tensor],
    make_stats: Callable[[int], S],
    compress_fn: Callable[[Tensor, S], R],
    *,
    layers: Sequence[str] | None = None,
    to_module: Callable[[nn.Linear, R], nn.Module] | None = None,
) -> Iterator[LayerReport]:
    """Compresses a model in place and reports each layer as soon as it is done.

    Example: `compress(model, batches, HessianStats, lambda w, s: gptq(w, s.hessian, config))`.

    Args:
        model: see `calibrate`; its weights change.
        batches: see `calibrate`.
        make_stats: see `calibrate`.
        compress_fn: pure function of a layer's weight (O, I) and statistics; returns the new
            weight, or an object with `.dequantize()`.
        layers: see `calibrate`.
        to_module: builds the module that replaces the layer, such as a packed `QuantLinear`; by
            default the layer stays and its weight becomes the dequantized result.

    Yields:
        One report per layer, in the order of the model.

    Raises:
        ValueError: as `calibrate`, or the result has another shape than the weight.
    """
    for block in walk(model, batches, make_stats, layers=layers, rerun=True):
        for layer in block:
            weight = layer.linear.weight.detach().clone()
            result = compress_fn(weight, layer.stats)
            approx = result if isinstance(result, Tensor) else result.dequantize()
            if approx.shape != weight.shape:
                raise ValueError(
                    f"{layer.name}: result {tuple(approx.shape)} for weight {tuple(weight.shape)}"
                )
            approx = approx.to(weight)
            if to_module is None:
                layer.linear.weight.data.copy_(approx)
            else:
                model.set_submodule(layer.name, to_module(layer.linear, result))
            yield _report(layer.name, weight, approx, layer.stats)


def walk(
    model: nn.Module,
    batches: Iterable[Tensor],
    make_stats: Callable[[int], S],
    *,
    layers: Sequence[str] | None = None,
    rerun: bool,
) -> Iterator[list[CalibratedLayer[S]]]:
    """Walks the blocks, yielding the calibrated layers of one after another.

    Args:
        model: see `calibrate`.
        batches: see `calibrate`.
        make_stats: see `calibrate`.
        layers: see `calibrate`.
        rerun: run a block again after the caller is done with it, so that what the caller changed
            reaches the statistics of later blocks.

    Yields:
        The chosen linear layers of a block; blocks without one are passed through.
    """
    blocks = decoder_blocks(model)
    chosen = {name: _linears(name, block, layers) for name, block in blocks.items()}
    _check_chosen(chosen, layers)
    last = max(index for index, linears in enumerate(chosen.values()) if linears)
    names = list(blocks)[: last + 1]
    hidden, calls = capture(model, [blocks[name] for name in names], batches)
    for index, block_name in enumerate(names):
        linears = chosen[block_name]
        stats = {name: make_stats(linear.in_features) for name, linear in linears.items()}
        observers: dict[nn.Module, Observer] = {
            linear: stats[name].update for name, linear in linears.items()
        }
        again = rerun and bool(linears)
        advance = index < last and not again
        run_block(blocks[block_name], hidden, calls[index], observers, advance=advance)
        if linears:
            yield [CalibratedLayer(name=n, linear=linears[n], stats=stats[n]) for n in linears]
        if again and index < last:  # looked up again: the caller may have replaced the block
            run_block(model.get_submodule(block_name), hidden, calls[index], {}, advance=True)


def _linears(
    block_name: str, block: nn.Module, layers: Sequence[str] | None
) -> dict[str, nn.Linear]:
    """The block's linear layers by full name, those of `layers` only."""
    linears = {
        ".".join(part for part in (block_name, name) if part): module
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear)
    }
    if layers is None:
        return linears
    return {n: m for n, m in linears.items() if any(_matches(n, wanted) for wanted in layers)}


def _matches(name: str, wanted: str) -> bool:
    return name == wanted or name.endswith(f".{wanted}")


def _check_chosen(chosen: dict[str, dict[str, nn.Linear]], layers: Sequence[str] | None) -> None:
    names = [name for linears in chosen.values() for name in linears]
    for wanted in layers or ():
        if not any(_matches(name, wanted) for name in names):
            raise ValueError(f"the model's blocks have no linear layer {wanted!r}")
    if not names:
        raise ValueError(f"no linear layer to calibrate with layers={layers}")


def _report(name: str, weight: Tensor, approx: Tensor, stats: Stats) -> LayerReport:
    hessian = stats.hessian if isinstance(stats, HessianStats) else None
    return LayerReport(
        name=name,
        relative_error=relative_error(weight, approx),
        hessian_error=None if hessian is None else hessian_error(weight, approx, hessian),
    )
