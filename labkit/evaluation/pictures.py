"""Asking a model about pictures: which of the allowed answers it prefers, and what it says freely.

"Choosing" reads one distribution: the model may only begin with an allowed answer's first token.
"Saying" lets it generate whatever it likes, which the caller compares with the right answer.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from labkit.data.chat import Message
from labkit.data.pictures import encode_prompt
from labkit.evaluation.scoring import judged
from labkit.inference.generate import generate_tokenized
from labkit.inference.sampling import SamplingConfig
from labkit.model.minillm import MiniLLM
from labkit.model.tokenizer import Tokenizer
from labkit.tuning.multimodal import VisionLanguageModel


def choose(
    model: VisionLanguageModel,
    tokenizer: Tokenizer,
    images: Float[Tensor, "N C Y X"],
    messages: Sequence[Message],
    choices: Sequence[str],
    *,
    batch_size: int = 32,
) -> Int[np.ndarray, "N"]:
    """For each picture the index of the choice whose first token is likeliest to follow.

    Args:
        model: over a MiniLLM.
        tokenizer: the language model's.
        images: one picture a question.
        messages: the question, the same for all pictures, with one placeholder.
        choices: possible answers, which must differ in their first tokens.
        batch_size: pictures a forward pass.

    Raises:
        ValueError: two choices begin with the same token, there are none, or no picture.
    """
    firsts = [tokenizer.encode(choice)[0] for choice in choices]
    if not firsts or len(set(firsts)) != len(firsts):
        raise ValueError(
            f"choices={tuple(choices)} must differ in their first tokens: word them otherwise"
        )
    prompt = encode_prompt(tokenizer, messages, model.tokens)
    found = [
        _next_logits(model, shown, prompt)[:, firsts].argmax(dim=1)
        for shown in _in_batches(images, batch_size)
    ]
    return torch.cat(found).numpy()


def say(
    model: VisionLanguageModel,
    tokenizer: Tokenizer,
    images: Float[Tensor, "N C Y X"],
    messages: Sequence[Message],
    config: SamplingConfig,
    *,
    batch_size: int = 32,
) -> list[str]:
    """What the model answers to a question about each picture, in its own words.

    Args:
        model: over a MiniLLM.
        tokenizer: the language model's.
        images: one picture a question.
        messages: the question, the same for all pictures, with one placeholder.
        config: choice of tokens and end.
        batch_size: pictures a forward pass.

    Raises:
        ValueError: no picture, or as `labkit.inference.generate.generate`.
    """
    prompt = encode_prompt(tokenizer, messages, model.tokens)
    texts: list[str] = []
    for shown in _in_batches(images, batch_size):
        with judged(model), model.showing(shown):
            rows = generate_tokenized(_minillm(model), tokenizer, [prompt] * len(shown), config)
        texts += [row.text.strip() for row in rows]
    return texts


def _next_logits(
    model: VisionLanguageModel, images: Tensor, prompt: list[int]
) -> Float[Tensor, "B V"]:
    language_model = _minillm(model)
    ids = torch.tensor([prompt] * len(images), device=model.projector.out.weight.device)
    with judged(model), model.showing(images):
        logits: Tensor = language_model(ids, last_only=True)
    return logits[:, -1].float().cpu()


def _in_batches(images: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    if not len(images) or batch_size < 1:
        raise ValueError(f"{len(images)} pictures in batches of batch_size={batch_size}")
    parts: tuple[Tensor, ...] = images.split(batch_size)
    return parts


def _minillm(model: VisionLanguageModel) -> MiniLLM:
    if not isinstance(model.language_model, MiniLLM):
        raise ValueError(
            f"this measurement runs MiniLLM, not a {type(model.language_model).__name__}: load the "
            "model with labkit.model.zoo"
        )
    return model.language_model
