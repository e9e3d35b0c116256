"""A language model that sees: an image encoder, a projector, and image tokens in the prompt.

The encoder's vectors, carried to the language model's width by the projector, stand where the
prompt has image tokens. A hook on the token embedding puts them there while pictures are shown, so
that neither the language model nor what generates with it changes. LoRA goes onto
`model.language_model` as onto any model.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from labkit.data.pictures import ImageTokens
from labkit.model.vision import VisionEncoder
from labkit.tuning import soft_prompt
from labkit.tuning.adapted import Addition

KINDS = ("linear", "mlp")
PARTS = ("encoder", "projector", "adapters")
_GELU_POWER = 0.425  # E[gelu(z)^2] of a standard normal z


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectorConfig:
    """How an encoder's vectors become image tokens.

    Attributes:
        kind: "linear", as MiniGPT-4's and LLaVA's; or "mlp", two layers with a GELU between them,
            as LLaVA-1.5's.
        group: neighbouring patches, in their order, whose vectors are joined into one token, as in
            MiniGPT-v2; a picture of P patches becomes P / group tokens.
    """

    kind: str = "linear"
    group: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} must be one of {KINDS}")
        if self.group < 1:
            raise ValueError(f"group={self.group} must be at least 1")


class Projector(nn.Module):
    """Image tokens: W [z_1; ...; z_g] + b, or W_2 gelu(W_1 [...] + b_1) + b_2.

    Paper: linear arXiv 2304.08485, equation 1, and arXiv 2304.10592, section 3; two layers
    arXiv 2310.03744; joined neighbours arXiv 2310.09478.

    Args:
        config: kind and group.
        in_width: of the encoder's vectors.
        out_width: of the language model's embeddings.
    """

    def __init__(self, config: ProjectorConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        self.config = config
        joined = config.group * in_width
        self.hidden = nn.Linear(joined, out_width) if config.kind == "mlp" else None
        self.out = nn.Linear(joined if self.hidden is None else out_width, out_width)

    def forward(self, x: Float[Tensor, "B P D"]) -> Float[Tensor, "B M width"]:
        """(B, P, D) -> (B, P / group, width).

        Raises:
            ValueError: the patches cannot be grouped.
        """
        B, P, _ = x.shape
        if P % self.config.group:
            raise ValueError(f"group={self.config.group} must divide the {P} patches")
        y = x.reshape(B, P // self.config.group, -1)
        if self.hidden is not None:
            y = nn.functional.gelu(self.hidden(y))
        tokens: Tensor = self.out(y)
        return tokens

    @torch.no_grad()
    def initialise(self, scale: float, generator: torch.Generator) -> None:
        """Draws matrices so that normalised inputs give tokens of root mean square `scale`.

        Image tokens then begin as large as the embeddings among which they stand.
        """
        power = 1.0
        if self.hidden is not None:
            _draw(self.hidden, 1.0, generator)
            power = _GELU_POWER
        _draw(self.out, scale / power**0.5, generator)


class VisionLanguageModel(nn.Module):
    """Encoder, projector and language model; each row of tokens shows one picture.

    None of the three is copied; the language model may have adapters. Encoder and projector are
    moved to its device. A new model trains nothing before `train_only`.

    Args:
        encoder: one vector for each patch.
        language_model: a MiniLLM or a transformers decoder.
        config: of the projector.
        image_id: the token id whose places pictures take; none that text needs.
        generator: draws the projector; by default a fresh one with seed 0.

    Raises:
        ValueError: the patches cannot be grouped, or `image_id` is beyond the vocabulary.
    """

    def __init__(
        self,
        encoder: VisionEncoder,
        language_model: nn.Module,
        config: ProjectorConfig,
        *,
        image_id: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        table = soft_prompt.embedding(language_model).weight
        P = encoder.config.num_patches
        if P % config.group:
            raise ValueError(f"group={config.group} must divide the encoder's {P} patches")
        if not 0 <= image_id < len(table):
            raise ValueError(f"image_id={image_id} must lie in [0, {len(table)})")
        self.encoder = encoder.to(table.device)
        self.language_model = language_model
        projector = Projector(config, encoder.config.width, table.shape[1])
        scale = float(table.detach().float().square().mean().sqrt())
        projector.initialise(
            scale, torch.Generator().manual_seed(0) if generator is None else generator
        )
        self.projector = projector.to(table.device)  # drawn on the CPU: the same on every device
        self.tokens = ImageTokens(image_id=image_id, count=P // config.group)
        self.requires_grad_(False)

    def image_tokens(self, images: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B M width"]:
        """What stands in the prompt for each picture."""
        device = self.encoder.position_embedding.device
        tokens: Tensor = self.projector(self.encoder(images.to(device)))
        return tokens

    @contextmanager
    def showing(self, images: Float[Tensor, "B C Y X"]) -> Iterator[nn.Module]:
        """Within the context the language model's calls see the pictures, row by row.

        Calls without any image token, such as a decoder's steps after the prompt, are left alone.

        Raises:
            ValueError: by a call whose rows have not `tokens.count` image tokens each, or whose
                rows are not as many as the pictures.
        """
        shown = self.image_tokens(images)
        table = soft_prompt.embedding(self.language_model)

        def embed(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return place(output, args[0], shown, self.tokens)

        handle = table.register_forward_hook(embed)
        try:
            yield self.language_model
        finally:
            handle.remove()

    def forward(
        self, ids: Int[Tensor, "B T"], images: Float[Tensor, "B C Y X"]
    ) -> Float[Tensor, "B T V"]:
        """Logits of the token after each position; the rows may be padded on the right.

        Raises:
            ValueError: as `showing`; also where no row has an image token.
        """
        if not (ids == self.tokens.image_id).any():
            raise ValueError(
                f"no row has an image token (id {self.tokens.image_id}): encode the prompts with "
                "labkit.data.pictures"
            )
        with self.showing(images) as language_model:
            output = language_model(ids)
        return cast(Tensor, output if isinstance(output, Tensor) else output.logits)


def place(
    embeddings: Float[Tensor, "B T D"],
    ids: Int[Tensor, "B T"],
    shown: Float[Tensor, "B2 M D"],
    tokens: ImageTokens,
) -> Float[Tensor, "B T D"]:
    """The embeddings with each row's image tokens replaced by its picture's, in order.

    Raises:
        ValueError: a row with image tokens has another number of them, or rows and pictures differ
            in number.
    """
    places = ids == tokens.image_id
    if not places.any():
        return embeddings
    if len(ids) != len(shown):
        raise ValueError(f"{len(ids)} rows need as many pictures, got {len(shown)}")
    counts = places.sum(dim=1)
    if (counts != tokens.count).any():
        row = int((counts != tokens.count).nonzero()[0])
        raise ValueError(
            f"row {row} has {int(counts[row])} image tokens, a picture takes {tokens.count}: one "
            "placeholder a row, encoded for this model's `tokens`"
        )
    return embeddings.masked_scatter(places[..., None], shown.to(embeddings.dtype))


def train_only(model: VisionLanguageModel, parts: Sequence[str]) -> VisionLanguageModel:
    """Choose what trains, in place: any of "encoder", "projector" and "adapters".

    "adapters" are what a tuning method has put into the language model, whose own weights never
    train here.

    Raises:
        ValueError: an unknown part, none, or adapters where the language model has none.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise ValueError(f"parts={tuple(parts)} must be some of {PARTS}")
    adapters = list(adapter_parameters(model.language_model))
    if "adapters" in parts and not adapters:
        raise ValueError("the language model has no adapters: call lora.apply on it first")
    model.requires_grad_(False)
    if "encoder" in parts:
        model.encoder.requires_grad_(True)
    if "projector" in parts:
        model.projector.requires_grad_(True)
    if "adapters" in parts:
        for parameter in adapters:
            parameter.requires_grad_(True)
    return model


def adapter_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that tuning methods have added to a model."""
    for module in model.modules():
        if isinstance(module, Addition):
            for name, parameter in module.named_parameters():
                if not name.startswith("base_layer."):
                    yield parameter


def _draw(layer: nn.Linear, scale: float, generator: torch.Generator) -> None:
    layer.weight.normal_(0.0, scale / layer.in_features**0.5, generator=generator)
    layer.bias.zero_()
