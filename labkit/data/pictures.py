"""Conversations about pictures: where the image tokens stand, and batches that carry the images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labkit.data.batch import IGNORE_INDEX, Example, TokenBatch, collate, shuffled_groups
from labkit.data.chat import ChatTokenizer, Message, chat_segments
from labkit.runtime.seeding import generator

PLACEHOLDER = "<image>"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTokens:
    """How a picture stands in a row of token ids: `image_id`, `count` times.

    Attributes:
        image_id: an id of the vocabulary that no text produces; its embedding is never used.
        count: M, image tokens a picture.
    """

    image_id: int
    count: int

    def __post_init__(self) -> None:
        if self.image_id < 0 or self.count < 1:
            raise ValueError(
                f"image_id={self.image_id} must not be negative, count={self.count} at least 1"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageBatch(TokenBatch):
    """Rows of tokens with one picture each; without text, `ids` and `labels` hold its class.

    Attributes:
        images: the pictures, in the rows' order.
    """

    images: Float[Tensor, "B C Y X"]

    def to(self, device: torch.device | str) -> "ImageBatch":
        """The same batch on another device."""
        return ImageBatch(
            ids=self.ids.to(device), labels=self.labels.to(device), images=self.images.to(device)
        )


@dataclass(frozen=True, slots=True, eq=False)
class ImageExample:
    """One conversation with its picture."""

    text: Example
    image: Float[Tensor, "C Y X"]


def encode_chat(
    tokenizer: ChatTokenizer, messages: Sequence[Message], tokens: ImageTokens
) -> Example:
    """`labkit.data.chat.encode_chat`, with the placeholder as `tokens.count` image tokens.

    The text before and after the placeholder is encoded apart. Labels are on assistant turns.

    Raises:
        ValueError: not exactly one placeholder, or one in an assistant turn; as `chat.encode_chat`.
    """
    _require_one_placeholder(messages)
    ids: list[int] = []
    labels: list[int] = []
    for text, learnt in chat_segments(tokenizer, messages):
        segment = _encode(tokenizer, text, tokens)
        ids += segment
        labels += segment if learnt else [IGNORE_INDEX] * len(segment)
    return Example(tuple(ids), tuple(labels))


def encode_prompt(
    tokenizer: ChatTokenizer, messages: Sequence[Message], tokens: ImageTokens
) -> list[int]:
    """Token ids up to where the assistant begins to speak.

    Raises:
        ValueError: not exactly one placeholder, or one in an assistant turn.
    """
    _require_one_placeholder(messages)
    return _encode(tokenizer, tokenizer.apply_chat(list(messages)), tokens)


class ImageLoader:
    """Shuffled padded batches of conversations with pictures, the same ones each time, endless.

    Args:
        examples: what to draw from.
        batch_size: examples a batch; the last of an epoch may hold fewer.
        pad_id: token that fills short rows.
        seed: decides the orders.
    """

    def __init__(
        self, examples: Sequence[ImageExample], *, batch_size: int, pad_id: int, seed: int = 0
    ) -> None:
        if not examples or batch_size < 1:
            raise ValueError(
                f"{len(examples)} examples in batches of batch_size={batch_size}: "
                "both must be at least 1"
            )
        self.examples = examples
        self.batch_size = batch_size
        self.pad_id = pad_id
        self.seed = seed

    def __iter__(self) -> Iterator[ImageBatch]:
        source = generator(self.seed)
        for group in shuffled_groups(len(self.examples), self.batch_size, source, None):
            yield collate_images([self.examples[i] for i in group], self.pad_id)


def collate_images(examples: Sequence[ImageExample], pad_id: int) -> ImageBatch:
    """Stack conversations, padded on the right, and their pictures.

    Raises:
        ValueError: there are none, or the pictures differ in shape.
    """
    rows = collate([example.text for example in examples], pad_id)
    shapes = {tuple(example.image.shape) for example in examples}
    if len(shapes) > 1:
        raise ValueError(f"pictures of one batch need one shape, got {sorted(shapes)}: resize them")
    images = torch.stack([example.image for example in examples])
    return ImageBatch(ids=rows.ids, labels=rows.labels, images=images)


def class_batches(
    images: Float[Tensor, "N C Y X"],
    labels: Int[Tensor, "N"],
    *,
    batch_size: int,
    generator: torch.Generator,
) -> Iterator[ImageBatch]:
    """Shuffled batches of pictures with their classes, endless."""
    for group in shuffled_groups(len(labels), batch_size, generator, None):
        classes = labels[group][:, None]
        yield ImageBatch(ids=classes, labels=classes, images=images[group])


def _encode(tokenizer: ChatTokenizer, text: str, tokens: ImageTokens) -> list[int]:
    ids: list[int] = []
    for number, piece in enumerate(text.split(PLACEHOLDER)):
        if number:
            ids += [tokens.image_id] * tokens.count
        found = tokenizer.encode(piece) if piece else []
        if tokens.image_id in found:
            raise ValueError(
                f"the text {piece!r} itself encodes to image_id={tokens.image_id}: choose an id "
                "that no text produces"
            )
        ids += found
    return ids


def _require_one_placeholder(messages: Sequence[Message]) -> None:
    counts = [message.get("content", "").count(PLACEHOLDER) for message in messages]
    if sum(counts) != 1:
        raise ValueError(
            f"a conversation shows one picture, but {PLACEHOLDER} stands in it {sum(counts)} "
            "times: write it once, in a user message"
        )
    speaker = messages[counts.index(1)].get("role")
    if speaker == "assistant":
        raise ValueError(f"the assistant cannot show a picture: move {PLACEHOLDER} to a user turn")
