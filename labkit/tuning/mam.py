"""The mix-and-match adapter: a short prefix in attention, a scaled parallel adapter beside the FFN.

There is no merge and no file format; see `prefix_tuning` and `bottleneck`.
"""

from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import nn

from labkit.tuning import adapted, bottleneck, prefix_tuning
from labkit.tuning.bottleneck import Bottleneck, BottleneckConfig
from labkit.tuning.prefix_tuning import PrefixTuningConfig

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True, slots=True)
class MamConfig:
    """The two parts; the paper's are 30 virtual tokens and a width of 512.

    Args:
        prefix: of every attention layer.
        adapter: beside every feed-forward network.
    """

    prefix: PrefixTuningConfig = field(
        default_factory=lambda: PrefixTuningConfig(num_virtual_tokens=30)
    )
    adapter: BottleneckConfig = field(default_factory=lambda: bottleneck.parallel(512))

    def __post_init__(self) -> None:
        if self.adapter.form != "parallel":
            raise ValueError(f"adapter.form={self.adapter.form!r}: MAM's adapter is parallel")


def apply(
    model: Model,
    config: MamConfig,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> Model:
    """Freeze the model and add both parts, in place. The prefix changes the outputs at once.

    Paper: arXiv 2110.04366, section 4.6.

    Args:
        model: a MiniLLM or a transformers decoder.
        config: the parts.
        generator: draws them; by default a fresh one with seed 0.
        dtype: of what trains, by default the base's.

    Returns:
        The same model.

    Raises:
        ValueError: as the parts' `apply`. The model is then unchanged.
    """
    adapted.refuse_adapted(model)
    names = bottleneck.target_names(model, config.adapter)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    prefix = prefix_tuning.draw(model, config.prefix, generator, dtype)

    def make(_: str, base: nn.Module) -> Bottleneck:
        return Bottleneck(base, config.adapter, generator=generator, dtype=dtype)

    adapted.wrap(model, names, make)
    prefix.install(model)
    return model


def remove(model: Model) -> Model:
    """Take both parts away, in place."""
    return bottleneck.remove(prefix_tuning.remove(model))
