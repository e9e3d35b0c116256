"""P-tuning (v1): virtual tokens that come out of a small trained network.

The network (an LSTM in the paper) ties the tokens together, which eases their training; afterwards
only its output is kept. P-tuning v2 is `prefix_tuning` without projection. There is no merge.
"""

import itertools
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labkit.tuning import adapted, soft_prompt
from labkit.tuning.soft_prompt import VirtualEmbeddings

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True, slots=True)
class PTuningConfig:
    """How many virtual tokens, and the network that makes them.

    Args:
        num_virtual_tokens: P.
        encoder: "mlp" (three layers) or "lstm" (bidirectional, and two layers after it).
        hidden: width of its hidden layers.
        lstm_layers: stacked; of an LSTM only.
    """

    num_virtual_tokens: int = 20
    encoder: str = "lstm"
    hidden: int = 128
    lstm_layers: int = 2

    def __post_init__(self) -> None:
        soft_prompt.check_tokens(self.num_virtual_tokens)
        if self.encoder not in ("mlp", "lstm"):
            raise ValueError(f"encoder={self.encoder!r} must be 'mlp' or 'lstm'")
        if self.hidden < 1 or self.lstm_layers < 1:
            raise ValueError(
                f"hidden={self.hidden} and lstm_layers={self.lstm_layers} must be at least 1"
            )


class PromptEncoder(VirtualEmbeddings):
    """h = MLP(LSTM(e)) or MLP(e) of P trained rows e; submodules are named as in PEFT.

    Paper: arXiv 2103.10385, section 3.2.

    Args:
        model: gives D.
        config: the network.
    """

    method = "P-tuning"

    def __init__(self, model: nn.Module, config: PTuningConfig) -> None:
        super().__init__(model, config.num_virtual_tokens)
        D, H = soft_prompt.embedding(model).embedding_dim, config.hidden
        self.embedding = nn.Embedding(config.num_virtual_tokens, D)
        widths = [D, H, H, D]
        self.lstm_head: nn.LSTM | None = None
        if config.encoder == "lstm":
            self.lstm_head = nn.LSTM(
                D, H, num_layers=config.lstm_layers, bidirectional=True, batch_first=True
            )
            widths = [2 * H, 2 * H, D]
        parts: list[nn.Module] = []
        for width, after in itertools.pairwise(widths):
            parts += [nn.Linear(width, after), nn.ReLU()]
        self.mlp_head = nn.Sequential(*parts[:-1])

    def vectors(self) -> Float[Tensor, "P D"]:
        rows: Tensor = self.embedding.weight
        if self.lstm_head is not None:
            rows = self.lstm_head(rows[None])[0][0]
        out: Tensor = self.mlp_head(rows)
        return out


def apply(
    model: Model,
    config: PTuningConfig,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> Model:
    """Freeze the model and put P virtual tokens before every sequence, in place.

    The outputs change at once. A file holds the finished tokens, and is read as prompt tuning's.

    Args:
        model: a MiniLLM or a transformers decoder.
        config: how many, from which network.
        generator: draws the network; by default a fresh one with seed 0.
        dtype: of the network, by default the embedding's.

    Returns:
        The same model.

    Raises:
        ValueError: the model is of another kind or has adapters.
    """
    adapted.refuse_adapted(model)
    weight = soft_prompt.embedding(model).weight
    with soft_prompt.drawing(generator):
        encoder = PromptEncoder(model, config)
    model.requires_grad_(False)
    encoder.to(weight.device, dtype or weight.dtype).install(model)
    return model


def remove(model: Model) -> Model:
    """Take the virtual tokens away, in place."""
    soft_prompt.of(model, PromptEncoder).uninstall(model)
    return model
