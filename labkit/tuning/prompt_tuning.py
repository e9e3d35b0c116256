"""Prompt tuning: a few trained rows before the token embeddings, and nothing else.

There is no merge: the rows are inputs, not weights.
"""

from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labkit.tuning import adapted, soft_prompt
from labkit.tuning.soft_prompt import VirtualEmbeddings

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptTuningConfig:
    """How many virtual tokens, and where they start.

    Args:
        num_virtual_tokens: P.
        init_ids: one token for each, whose embeddings they start from; by default tokens drawn at
            random from the vocabulary.
    """

    num_virtual_tokens: int = 20
    init_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        soft_prompt.check_tokens(self.num_virtual_tokens, self.init_ids)


class PromptEmbeddings(VirtualEmbeddings):
    """P trained rows (P, D), named `prompt_embeddings` as in PEFT's files. P D weights train."""

    method = "prompt tuning"

    def __init__(self, model: nn.Module, rows: Float[Tensor, "P D"]) -> None:
        super().__init__(model, len(rows))
        self.prompt_embeddings = nn.Parameter(rows)

    def vectors(self) -> Float[Tensor, "P D"]:
        return self.prompt_embeddings


@torch.no_grad()
def apply(
    model: Model,
    config: PromptTuningConfig,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> Model:
    """Freeze the model and put P virtual tokens before every sequence, in place.

    The outputs change at once: they are those after P more tokens, of `init_ids` if given.

    Paper: arXiv 2104.08691, section 2.

    Args:
        model: a MiniLLM or a transformers decoder.
        config: how many, from where.
        generator: draws the tokens to start from; by default a fresh one with seed 0.
        dtype: of the rows, by default the embedding's.

    Returns:
        The same model.

    Raises:
        ValueError: the model is of another kind or has adapters, or an id is beyond its vocabulary.
    """
    adapted.refuse_adapted(model)
    table = soft_prompt.embedding(model)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    V, P = table.num_embeddings, config.num_virtual_tokens
    ids = torch.randint(V, (P,), generator=generator)
    if config.init_ids is not None:
        ids = torch.tensor(config.init_ids)
        if not 0 <= min(config.init_ids) <= max(config.init_ids) < V:
            raise ValueError(f"init_ids={config.init_ids} must lie in [0, {V})")
    rows = table.weight[ids.to(table.weight.device)].detach().clone()
    model.requires_grad_(False)
    PromptEmbeddings(model, rows.to(dtype or rows.dtype)).install(model)
    return model


def remove(model: Model) -> Model:
    """Take the virtual tokens away, in place."""
    soft_prompt.of(model, PromptEmbeddings).uninstall(model)
    return model
