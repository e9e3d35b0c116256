"""Everything that is asked of an adapter before it is mounted.

A LoRA on a linear layer adds scaling * (x A^T) B^T to the output: a sum over the input alone, so
rows of one batch may each have another one. What changes the base layer itself is refused: DoRA
rescales W's rows, a trained bias and `modules_to_save` replace parameters that all rows share.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.inference.adapters.errors import (
    InvalidAdapterError,
    MismatchedAdapterError,
    UnsupportedAdapterError,
)
from labkit.inference.adapters.fingerprint import KEY
from labkit.inference.adapters.header import MAX_HEADER_BYTES, read_header
from labkit.inference.adapters.places import Place, path, places, shapes
from labkit.model.config import ModelConfig
from labkit.runtime.errors import CorruptFileError
from labkit.tuning import adapter_files
from labkit.tuning.adapter_files import CONFIG_NAME, WEIGHTS_NAME, Adapter
from labkit.tuning.lora_layer import LoraConfig
from labkit.tuning.targets import ALL_LINEAR

MAX_CONFIG_BYTES = 2**20
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_FACTORS = ("lora_A", "lora_B")


class Factors(NamedTuple):
    """One projection's adapter, ready to add: y += (x A^T) B with the scaling inside B."""

    A: Float[Tensor, "R I"]
    B: Float[Tensor, "R O"]


def read(
    folder: str | Path, config: ModelConfig, max_rank: int, base_fingerprint: str | None = None
) -> Adapter:
    """Read an adapter's folder with bounded memory, running nothing that is in it.

    Args:
        folder: holds PEFT's two files.
        config: of the base model; with `max_rank` it bounds how large the file may be.
        max_rank: highest R taken.
        base_fingerprint: of the served model; an adapter that records another is refused.

    Raises:
        InvalidAdapterError: a file is absent, damaged or too large.
        UnsupportedAdapterError: its method or variant cannot be read.
        MismatchedAdapterError: it records another base.
    """
    folder = Path(folder)
    _check_config_file(folder / CONFIG_NAME)
    header = read_header(folder / WEIGHTS_NAME, max_bytes=_most_bytes(config, max_rank))
    recorded = header.metadata.get(KEY)
    if None not in (recorded, base_fingerprint) and recorded != base_fingerprint:
        raise MismatchedAdapterError(
            f"{folder} was trained on the base model {recorded}, and {base_fingerprint} is served: "
            "tune it again on this one"
        )
    try:
        return adapter_files.read(folder)
    except (CorruptFileError, OSError, RecursionError) as error:
        raise InvalidAdapterError(f"{folder} ({CONFIG_NAME}, {WEIGHTS_NAME}): {error}") from error
    except ValueError as error:
        raise UnsupportedAdapterError(str(error)) from error


def factors(
    adapter: Adapter, config: ModelConfig, *, max_rank: int, dtype: torch.dtype
) -> dict[Place, Factors]:
    """The adapter's matrices by place, checked, the scaling folded into B in float32, then rounded.

    Raises:
        AdapterError: of the kind that says why it cannot be served.
    """
    lora = _lora_config(adapter)
    if lora.rank > max_rank:
        raise MismatchedAdapterError(
            f"{adapter.folder} has rank {lora.rank}, above this bank's max_rank={max_rank}"
        )
    found = _pairs(adapter, config, lora.rank)
    _check_targets(adapter, lora, config, found)
    scaled = {
        place: Factors(A.to(dtype), (B.float() * lora.scaling).to(dtype).t().contiguous())
        for place, (A, B) in found.items()
    }
    for place, (A, B) in scaled.items():
        if not bool(A.isfinite().all() & B.isfinite().all()):
            raise InvalidAdapterError(
                f"{adapter.folder} has NaN or infinite weights at {path(place)} (in {dtype}, times "
                f"the scaling {lora.scaling}): it would spoil every token"
            )
    return scaled


def _most_bytes(config: ModelConfig, max_rank: int) -> int:
    """Of a file that adapts every place at the highest rank in float32."""
    per_layer = sum(I + O for I, O in shapes(config).values())  # noqa: E741
    return MAX_HEADER_BYTES + 4 * max_rank * per_layer * config.num_layers


def _check_config_file(file: Path) -> None:
    if not file.is_file():
        raise InvalidAdapterError(f"{file} is absent: give the folder that `save_pretrained` wrote")
    if (size := file.stat().st_size) > MAX_CONFIG_BYTES:
        raise InvalidAdapterError(f"{file} has {size} bytes, above {MAX_CONFIG_BYTES}")


def _lora_config(adapter: Adapter) -> LoraConfig:
    config, where = adapter.config, adapter.folder
    if not isinstance(config, LoraConfig):
        kind = type(config).__name__.removesuffix("Config")
        raise UnsupportedAdapterError(
            f"{where} is {kind}, and only LoRA shares a batch here: merge it, or serve it alone"
        )
    if config.use_dora:
        raise UnsupportedAdapterError(
            f"{where} is DoRA, which rescales the base's own rows and so is no sum on its output: "
            "merge it into a model of its own"
        )
    if config.bias != "none":
        raise UnsupportedAdapterError(
            f"{where} trained biases (bias={config.bias!r}), which all rows share: merge it, or "
            "tune it with bias='none'"
        )
    kinds = (config.rank, int), (config.alpha, (int, float)), (config.use_rslora, bool)
    if not all(isinstance(value, kind) for value, kind in kinds):
        raise InvalidAdapterError(
            f"{where}: r={config.rank!r}, lora_alpha={config.alpha!r} and "
            f"use_rslora={config.use_rslora!r} must be an integer, a number and a truth value"
        )
    return config


def _pairs(adapter: Adapter, config: ModelConfig, rank: int) -> dict[Place, tuple[Tensor, Tensor]]:
    """A and B by place; every tensor of the file has its place, shape and dtype."""
    known, widths = places(config), shapes(config)
    names = {f"{at}.{factor}.weight": (at, factor) for at in known for factor in _FACTORS}
    _check_names(adapter, names)
    pairs = {}
    for at in dict.fromkeys(names[name][0] for name in adapter.tensors):
        I, O = widths[known[at].target]  # noqa: E741
        pair = []
        for factor, shape in zip(_FACTORS, ((rank, I), (O, rank)), strict=True):
            name = f"{at}.{factor}.weight"
            tensor = adapter.tensors.get(name)
            if tensor is None or tuple(tensor.shape) != shape or tensor.dtype not in _DTYPES:
                got = "nothing" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"
                raise MismatchedAdapterError(
                    f"{adapter.folder}: {name} should be of shape {shape} for this model at rank "
                    f"{rank}, and the file has {got}"
                )
            pair.append(tensor)
        pairs[known[at]] = (pair[0], pair[1])
    return pairs


def _check_names(adapter: Adapter, names: Mapping[str, tuple[str, str]]) -> None:
    if not adapter.tensors:
        raise InvalidAdapterError(f"{adapter.folder} holds no tensors in {WEIGHTS_NAME}")
    strange = [name for name in adapter.tensors if name not in names]
    if strange:
        targets = sorted({at.rpartition(".")[2] for at, _ in names.values()})
        raise MismatchedAdapterError(
            f"{adapter.folder} adapts what this model has no adapter for: {len(strange)} tensors, "
            f"first {strange[0]}; a place is model.layers.N with {', '.join(targets)}"
        )


def _check_targets(
    adapter: Adapter, lora: LoraConfig, config: ModelConfig, found: Mapping[Place, object]
) -> None:
    """The file holds all that its options name: a part of an adapter is another adapter.

    A regular expression is not run, since a stranger's may take for ever; there the tensors decide.
    """
    targets, known = lora.target_modules, places(config)
    if isinstance(targets, str) and targets != ALL_LINEAR:
        return
    expected = {
        place
        for at, place in known.items()
        if targets == ALL_LINEAR or any(_names(target, at) for target in targets)
    }
    if expected != set(found):
        differing = sorted(path(place) for place in expected ^ set(found))
        raise MismatchedAdapterError(
            f"{adapter.folder}: target_modules={targets!r} and the tensors disagree at "
            f"{len(differing)} places, first {differing[0]}: the file is incomplete, or it was "
            "made for a model of another depth"
        )


def _names(target: object, at: str) -> bool:
    return isinstance(target, str) and (at == target or at.endswith(f".{target}"))
