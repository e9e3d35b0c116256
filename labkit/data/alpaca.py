"""Alpaca's frame around an instruction, and its rows as training examples."""

from typing import Protocol, runtime_checkable

from labkit.data.batch import IGNORE_INDEX, Example

_TASK = "Below is an instruction that describes a task"
_WITH_INPUT = ", paired with an input that provides further context"
_ORDER = ". Write a response that appropriately completes the request."


@runtime_checkable
class PlainTokenizer(Protocol):
    """What encoding a row needs; `labkit.model.tokenizer` has it."""

    eos_id: int

    def encode(self, text: str, *, add_special: bool = False) -> list[int]: ...


def frame(instruction: str, extra: str = "") -> str:
    """The prompt, in the words that published Alpaca checkpoints were trained on.

    Args:
        instruction: What is to be done.
        extra: The row's "input", if it has one.
    """
    head = _TASK + (_WITH_INPUT if extra else "") + _ORDER
    parts = [("Instruction", instruction)] + ([("Input", extra)] if extra else [])
    body = "".join(f"### {name}:\n{text}\n\n" for name, text in parts)
    return f"{head}\n\n{body}### Response:\n"


def encode_row(
    tokenizer: PlainTokenizer,
    instruction: str,
    output: str,
    extra: str = "",
    *,
    train_on_prompt: bool = False,
) -> Example:
    """Prompt, response and the end-of-text token, each part encoded by itself.

    Args:
        tokenizer: Of the model to be tuned.
        instruction, output, extra: The row.
        train_on_prompt: Learn the prompt's tokens too, as Alpaca-LoRA's script does by default.
    """
    prompt = tokenizer.encode(frame(instruction, extra))
    answer = [*tokenizer.encode(output), tokenizer.eos_id]
    head = prompt if train_on_prompt else [IGNORE_INDEX] * len(prompt)
    return Example((*prompt, *answer), (*head, *answer))
