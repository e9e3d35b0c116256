"""The published frame, word for word, and labels on the response alone."""

from dataclasses import dataclass

from labkit.data.alpaca import encode_row, frame
from labkit.data.batch import IGNORE_INDEX


@dataclass
class Characters:
    eos_id: int = 0

    def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        return [ord(character) for character in text]


def test_frame_of_a_row_with_and_without_input():
    assert frame("Add.") == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nAdd.\n\n### Response:\n"
    )
    assert frame("Add.", "1 2") == (
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n"
    )


def test_only_the_response_and_its_end_are_learnt():
    row = encode_row(Characters(), "Add.", "3!", "1 2")
    learnt = [i for i, label in enumerate(row.labels) if label != IGNORE_INDEX]
    assert [row.labels[i] for i in learnt] == [ord("3"), ord("!"), 0]
    assert learnt == [len(row.ids) - 3, len(row.ids) - 2, len(row.ids) - 1]
    assert "".join(map(chr, row.ids[:-3])) == frame("Add.", "1 2")


def test_the_prompt_is_learnt_on_request():
    row = encode_row(Characters(), "Add.", "3", train_on_prompt=True)
    assert row.labels == row.ids
