"""Conversations as training examples: loss on what the assistant says and on nothing else."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from labkit.data.batch import IGNORE_INDEX, Example

Message = dict[str, str]
ChatExample = Example


@runtime_checkable
class ChatTokenizer(Protocol):
    """What encoding a conversation needs of a tokenizer; `labkit.model.tokenizer` has it."""

    def encode(self, text: str, *, add_special: bool = False) -> list[int]: ...

    def apply_chat(self, messages: list[Message], *, add_generation_prompt: bool = True) -> str: ...


def encode_chat(tokenizer: ChatTokenizer, messages: Sequence[Message]) -> ChatExample:
    """Encode a conversation; labels on assistant turns with their end-of-turn token.

    The text is cut where each assistant turn begins and after its end-of-turn token, and every
    segment is encoded by itself: a prompt gets the very ids it has at inference, and no token
    lies across the border of the loss.

    Raises:
        ValueError: no assistant message follows another, a message lacks "role" or "content", or
            the template rewrites earlier turns when later ones come.
    """
    ids: list[int] = []
    labels: list[int] = []
    for text, learnt in chat_segments(tokenizer, messages):
        segment = tokenizer.encode(text)
        ids += segment
        labels += segment if learnt else [IGNORE_INDEX] * len(segment)
    return ChatExample(tuple(ids), tuple(labels))


def only_last_turn(example: ChatExample) -> ChatExample:
    """The same tokens with labels on the last assistant turn alone.

    Raises:
        ValueError: nothing is learnt in the example.
    """
    learnt = [i for i, label in enumerate(example.labels) if label != IGNORE_INDEX]
    if not learnt:
        raise ValueError("the example has no label: there is no last turn to keep")
    start = learnt[-1]
    while start > 0 and example.labels[start - 1] != IGNORE_INDEX:
        start -= 1
    labels = [IGNORE_INDEX] * start + list(example.labels[start:])
    return ChatExample(example.ids, tuple(labels))


def chat_segments(tokenizer: ChatTokenizer, messages: Sequence[Message]) -> list[tuple[str, bool]]:
    """The rendered conversation in pieces, each with whether it is learnt."""
    _check(messages)
    whole = tokenizer.apply_chat(list(messages), add_generation_prompt=False)
    segments: list[tuple[str, bool]] = []
    end = 0
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = tokenizer.apply_chat(list(messages[:i]), add_generation_prompt=True)
        answered = tokenizer.apply_chat(list(messages[: i + 1]), add_generation_prompt=False)
        if not (answered.startswith(prompt) and whole.startswith(answered)):
            raise ValueError(
                f"the chat template rewrites the text before message {i}: "
                "its turns cannot be told apart"
            )
        turn = answered[len(prompt) :].rstrip()  # the newline after the end-of-turn token
        segments += [(prompt[end:], False), (turn, True)]
        end = len(prompt) + len(turn)
    if whole[end:]:
        segments.append((whole[end:], False))
    return segments


def _check(messages: Sequence[Message]) -> None:
    for i, message in enumerate(messages):
        if not {"role", "content"} <= message.keys():
            raise ValueError(f"message {i} has keys {sorted(message)}: role and content are needed")
    roles = [message["role"] for message in messages]
    if "assistant" not in roles[1:] or roles[0] == "assistant":
        raise ValueError(f"an assistant turn must answer a turn before it, got roles {roles}")
