"""Prompts with responses that were compared, or liked and disliked, as batches to learn from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from labkit.data.batch import IGNORE_INDEX, Example, TokenBatch, collate, shuffled_groups

Tokens = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """Two responses to one prompt, as token ids; `chosen` was preferred."""

    prompt: Tokens
    chosen: Tokens
    rejected: Tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Feedback:
    """One response to a prompt, as token ids, and whether it was liked."""

    prompt: Tokens
    response: Tokens
    desirable: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedbackBatch(TokenBatch):
    """Rated responses, and the same prompts with responses of other prompts.

    Attributes:
        desirable: Which rows were liked.
        mismatched: Row i is prompt i with the response of row i + 1 (the last with the first's):
            what KTO's baseline is estimated from.
    """

    desirable: Bool[Tensor, "B"]
    mismatched: TokenBatch

    def to(self, device: torch.device | str) -> "FeedbackBatch":
        """The same batch on another device."""
        return FeedbackBatch(
            ids=self.ids.to(device),
            labels=self.labels.to(device),
            desirable=self.desirable.to(device),
            mismatched=self.mismatched.to(device),
        )


def response_example(prompt: Sequence[int], response: Sequence[int]) -> Example:
    """Prompt and response in one row, of which the response alone is labelled.

    Raises:
        ValueError: Either is empty: a response needs something before it to be predicted from.
    """
    if not prompt or not response:
        raise ValueError(f"a prompt of {len(prompt)} and a response of {len(response)} tokens")
    return Example((*prompt, *response), (*[IGNORE_INDEX] * len(prompt), *response))


def as_feedback(preferences: Sequence[Preference]) -> list[Feedback]:
    """Each pair as one liked and one disliked response."""
    return [
        Feedback(prompt=pair.prompt, response=response, desirable=desirable)
        for pair in preferences
        for response, desirable in ((pair.chosen, True), (pair.rejected, False))
    ]


def collate_preferences(preferences: Sequence[Preference], pad_id: int) -> TokenBatch:
    """Rows 0 to B - 1 are the chosen responses, rows B to 2 B - 1 the rejected ones, in order."""
    chosen = [response_example(pair.prompt, pair.chosen) for pair in preferences]
    rejected = [response_example(pair.prompt, pair.rejected) for pair in preferences]
    return collate(chosen + rejected, pad_id)


def collate_feedback(feedback: Sequence[Feedback], pad_id: int) -> FeedbackBatch:
    """Rated responses with their mismatched neighbours.

    Raises:
        ValueError: There is only one: nothing is mismatched.
    """
    if len(feedback) < 2:
        raise ValueError(f"{len(feedback)} responses: a baseline needs at least 2 in a batch")
    shifted = [*feedback[1:], feedback[0]]
    rows = [response_example(one.prompt, one.response) for one in feedback]
    pairs = zip(feedback, shifted, strict=True)
    mismatched = [response_example(one.prompt, other.response) for one, other in pairs]
    batch = collate(rows, pad_id)
    return FeedbackBatch(
        ids=batch.ids,
        labels=batch.labels,
        desirable=torch.tensor([one.desirable for one in feedback]),
        mismatched=collate(mismatched, pad_id),
    )


def preference_batches(
    preferences: Sequence[Preference],
    *,
    batch_size: int,
    pad_id: int,
    generator: torch.Generator,
    epochs: int | None = None,
) -> Iterator[TokenBatch]:
    """`collate_preferences` of `batch_size` pairs in random order, epoch after epoch."""
    for group in shuffled_groups(len(preferences), batch_size, generator, epochs):
        yield collate_preferences([preferences[i] for i in group], pad_id)


def feedback_batches(
    feedback: Sequence[Feedback],
    *,
    batch_size: int,
    pad_id: int,
    generator: torch.Generator,
    epochs: int | None = None,
) -> Iterator[FeedbackBatch]:
    """`collate_feedback` of `batch_size` responses in random order, epoch after epoch.

    A single response left over at the end of an epoch is passed over: it has no neighbour.
    """
    for group in shuffled_groups(len(feedback), batch_size, generator, epochs):
        if len(group) > 1:
            yield collate_feedback([feedback[i] for i in group], pad_id)
