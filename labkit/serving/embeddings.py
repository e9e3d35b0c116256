"""One vector a text: the mean of its tokens' final hidden states, scaled to length 1."""

import base64
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labkit.model.minillm import MiniLLM
from labkit.serving.schemas.others import EmbeddingRequest
from labkit.serving.shapes import Body


class Embedder:
    """h = mean_t hidden(ids)[t];  e = h / |h|.

    Args:
        model: The base, whose modules nobody hangs hooks on.
    """

    def __init__(self, model: MiniLLM) -> None:
        self._model = model

    @torch.inference_mode()
    def __call__(self, ids: Sequence[int]) -> Float[Tensor, " D"]:
        device = self._model.model.embed_tokens.weight.device
        hidden = self._model.hidden_states(torch.tensor([list(ids)], device=device))
        return nn.functional.normalize(hidden[0].float().mean(dim=0), dim=0).cpu()


def body(request: EmbeddingRequest, vectors: Sequence[Tensor], tokens: int) -> Body:
    """The vectors in the API's form, as numbers or as base64 of little-endian float32."""
    rows = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector, request)}
        for index, vector in enumerate(vectors)
    ]
    counts = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": rows, "model": request.model, "usage": counts}


def _encoded(vector: Tensor, request: EmbeddingRequest) -> str | list[float]:
    if request.encoding_format == "float":
        numbers: list[float] = vector.tolist()
        return numbers
    return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()
