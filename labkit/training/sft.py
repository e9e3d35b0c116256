"""Supervised fine-tuning on conversations: loss on the assistant's words, packed or padded rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from labkit.data.batch import Example
from labkit.data.chat import ChatTokenizer, Message, encode_chat
from labkit.data.loader import DataLoader
from labkit.training.config import TrainConfig
from labkit.training.loop import StepRecord, train


@dataclass(frozen=True, kw_only=True, slots=True)
class SftConfig:
    """How conversations become rows.

    Attributes:
        length: Most tokens of a conversation, and tokens of a packed row.
        batch_size: Rows a micro-batch.
        packing: Several conversations share a row, none seeing another; otherwise each has its
            own, padded to the longest of its batch. The losses are the same, the time is not.
        seed: Decides the order.
    """

    length: int
    batch_size: int
    packing: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError with the values met and the way out."""
        if self.length < 2 or self.batch_size < 1:
            raise ValueError(
                f"length={self.length} must be at least 2 and batch_size={self.batch_size} "
                "at least 1"
            )


def fitting_examples(
    tokenizer: ChatTokenizer, chats: Sequence[Sequence[Message]], length: int
) -> list[Example]:
    """Encoded conversations of at most `length` tokens; a longer one would be learnt unfinished.

    Compare the lengths of input and output to know how many were left out.

    Raises:
        ValueError: None fits.
    """
    examples = [encode_chat(tokenizer, chat) for chat in chats]
    fitting = [example for example in examples if len(example.ids) <= length]
    if not fitting:
        raise ValueError(f"none of {len(examples)} conversations fits into length={length} tokens")
    return fitting


def train_sft(
    model: nn.Module,
    examples: Sequence[Example],
    config: TrainConfig,
    sft: SftConfig,
    *,
    pad_id: int,
    checkpoint_dir: Path | str | None = None,
    resume: bool = False,
) -> Iterator[StepRecord]:
    """Fine-tune on labelled tokens, epoch after epoch, yielding a record a step.

    Paper: 2203.02155 (InstructGPT), section 3.5.
    Differs: the loss of a step is a mean over its labelled tokens, packed or not.

    Args:
        model: MiniLLM or a transformers model, with or without adapters; trained in place.
        examples: From `fitting_examples`, or any whose labels mark what is to be learnt.
        config: Optimisation.
        sft: Rows.
        pad_id: Token that fills short rows.
        checkpoint_dir: As for :func:`labkit.training.loop.train`.
        resume: As for ``train``.

    Yields:
        Records as of ``train``.

    Raises:
        ValueError: As ``train``, or an example is too long for a packed row.
    """
    rows = DataLoader(
        examples=examples,
        batch_size=sft.batch_size,
        pad_id=pad_id,
        length=sft.length if sft.packing else None,
        seed=sft.seed,
    )
    return train(model, rows, config, checkpoint_dir=checkpoint_dir, resume=resume)
