"""Self-speculation: the model drafts for itself with some of its layers left out."""

import copy
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn

from labkit.inference.sampling import SamplingConfig, next_token_distribution
from labkit.inference.speculation.drafters import ModelDrafter
from labkit.inference.speculation.rejection import acceptance_rate
from labkit.model.blocks import Block, PostNormBlock
from labkit.model.minillm import MiniLLM
from labkit.tuning import soft_prompt

Module = TypeVar("Module", bound=nn.Module)


class SkipLayerDrafter(ModelDrafter):
    """The model's own remaining layers, between its own embedding and head, as the draft.

    It takes no memory but its KV cache and needs no training. An adapter that the model had when
    this was made drafts too.

    Paper: arXiv 2309.08168. Differs: whole layers are skipped, not attention and feed-forward
    network apart, and a greedy search chooses them.

    Args:
        model: The target.
        skipped: Numbers of the layers to leave out; `search_skipped_layers` ranks them.

    Raises:
        ValueError: As `skip_layers`.
    """

    def __init__(self, model: MiniLLM, skipped: Collection[int]) -> None:
        view = skip_layers(model, skipped)
        kept, L = view.config.num_layers, model.config.num_layers
        super().__init__(view, name=f"draft of {kept} of {L} layers")


def skip_layers(model: MiniLLM, skipped: Collection[int]) -> MiniLLM:
    """A view of the model without some layers: the same tensors, in eval mode, a config of its own.

    Raises:
        ValueError: A number is not that of a layer or comes twice, no layer would be left, or the
            model has a soft prompt, which is made for all its layers.
    """
    L = model.config.num_layers
    if set(skipped) - set(range(L)) or len(set(skipped)) != len(skipped) or len(skipped) == L:
        raise ValueError(
            f"skipped={sorted(skipped)} must be different layers of 0..{L - 1}, and not all"
        )
    if soft_prompt.virtual_tokens(model):
        raise ValueError("a soft prompt is made for all layers: draft with a model or n-grams")
    blocks = cast(list[Block | PostNormBlock], list(model.model.layers))
    kept = [block for number, block in enumerate(blocks) if number not in skipped]
    view = _shallow(model)
    view.config = replace(model.config, num_layers=len(kept))
    view.model = _shallow(model.model)
    view.model.layers = nn.ModuleList(_renumbered(b, number) for number, b in enumerate(kept))
    return view


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerChoice:
    """Layers to skip, and the acceptance rate that the rest then has, measured over all places."""

    skipped: tuple[int, ...]
    acceptance: float


def search_skipped_layers(
    model: MiniLLM, ids: Int[Tensor, "B T"], config: SamplingConfig, *, most: int
) -> Iterator[LayerChoice]:
    """Leave out one layer after the other, each time the one whose loss costs least acceptance.

    Greedy elimination: `most` (L - most / 2) passes over the text in all, and no promise that a set
    is the best of its size. `rejection.speedup` tells which of the yielded sets pays.

    Args:
        model: The target, in eval mode.
        ids: Text of the kind that will be generated, best the target's own: acceptance is averaged
            over its places.
        config: How tokens will be chosen; greedy, acceptance is the share of equal choices.
        most: Layers to skip at the end.

    Yields:
        The choice of 1, 2, ... `most` layers, each with those before it.

    Raises:
        ValueError: `most` leaves no layer.
    """
    L = model.config.num_layers
    if not 1 <= most < L:
        raise ValueError(f"most={most} must lie between 1 and {L - 1}, to keep a layer of {L}")
    target = _laws(model, ids, config)
    skipped: tuple[int, ...] = ()
    for _ in range(most):
        scores = {}
        for layer in sorted(set(range(L)) - set(skipped)):
            draft = _laws(skip_layers(model, (*skipped, layer)), ids, config)
            scores[layer] = float(acceptance_rate(target, draft).mean())
        best = max(scores, key=lambda layer: scores[layer])
        skipped = (*skipped, best)
        yield LayerChoice(skipped=skipped, acceptance=scores[best])


@torch.no_grad()
def _laws(model: MiniLLM, ids: Tensor, config: SamplingConfig) -> Tensor:
    return next_token_distribution(model(ids).flatten(0, 1), config)


def _renumbered(block: Block | PostNormBlock, number: int) -> nn.Module:
    """The block, writing to row `number` of a cache."""
    assert isinstance(block, Block | PostNormBlock)
    view = _shallow(block)
    view.self_attn = _shallow(block.self_attn)
    view.self_attn.layer = number
    return view


def _shallow(module: Module) -> Module:
    """A module of its own around the same children and tensors."""
    view = copy.copy(module)
    view._modules = dict(module._modules)
    view.training = False
    return view
