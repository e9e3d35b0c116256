"""scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels, and questions about them.

The images come inside scikit-learn: nothing is downloaded. They are the test half of the UCI set
`optdigits`; its 13 writers appear on both sides of any split by image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labkit.data.chat import Message
from labkit.data.pictures import PLACEHOLDER
from labkit.runtime.errors import MissingDependencyError

SYSTEM = "Answer about the picture."
_BRIGHTEST = 16.0
_SIDE = 8


@dataclass(frozen=True, slots=True, eq=False)
class Digits:
    """Images with values in [0, 1], one channel, and the digit each shows."""

    images: Float[Tensor, "N 1 8 8"]
    labels: Int[Tensor, "N"]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Sequence[int] | Int[Tensor, "M"]) -> "Digits":
        """Some of them, in the order given."""
        chosen = torch.as_tensor(indices)
        return Digits(self.images[chosen], self.labels[chosen])


def load() -> Digits:
    """All images, in scikit-learn's order.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError(
            "the digits come with scikit-learn: pip install 'llm-engineering-lab[course]'"
        ) from error
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32) / _BRIGHTEST
    return Digits(images.view(-1, 1, _SIDE, _SIDE), torch.tensor(found.target, dtype=torch.long))


def split(digits: Digits, *, held_out: int = 360, seed: int = 0) -> tuple[Digits, Digits]:
    """Training images and held-out ones, no image in both; the seed decides which.

    Raises:
        ValueError: one side would be empty.
    """
    N = len(digits)
    if not 0 < held_out < N:
        raise ValueError(f"held_out={held_out} must lie between 1 and {N - 1}, of {N} images")
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    return digits.take(order[held_out:]), digits.take(order[:held_out])


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionKind:
    """A question about a digit: its wordings, the answers there are, and which is right.

    Attributes:
        name: short name for tables.
        phrasings: wordings that mean the same; the last is kept from training by `chats`.
        choices: possible answers, as the assistant gives them.
        right: from the digit to the index of the right choice.
    """

    name: str
    phrasings: tuple[str, ...]
    choices: tuple[str, ...]
    right: Callable[[int], int]

    def answer(self, digit: int) -> str:
        """The right choice."""
        return self.choices[self.right(digit)]


WHICH = QuestionKind(
    name="which digit",
    phrasings=(
        "Which digit is this?",
        "What number do you see?",
        "Read the digit.",
        "What is written here?",
    ),
    choices=tuple(str(digit) for digit in range(10)),
    right=lambda digit: digit,
)
PARITY = QuestionKind(
    name="even or odd",
    phrasings=(
        "Is the digit even or odd?",
        "Even or odd?",
        "Is this an even or an odd number?",
        "Tell me whether it is even or odd.",
    ),
    choices=("even", "odd"),
    right=lambda digit: digit % 2,
)
LARGER = QuestionKind(
    name="larger than five",
    phrasings=(
        "Is the digit larger than five?",
        "Is it more than 5?",
        "Is this number greater than five?",
        "Does it exceed 5?",
    ),
    choices=("no", "yes"),
    right=lambda digit: int(digit > 5),
)
KINDS = (WHICH, PARITY, LARGER)


def question(kind: QuestionKind, phrasing: int = 0) -> list[Message]:
    """A conversation that shows a picture and asks, waiting for the assistant."""
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"{PLACEHOLDER}\n{kind.phrasings[phrasing]}"},
    ]


def chats(
    labels: Sequence[int] | Int[Tensor, "N"],
    kinds: Sequence[QuestionKind],
    generator: torch.Generator,
) -> list[list[Message]]:
    """For each image one question of a random kind and wording, with its answer.

    The last wording of every kind is never drawn, so that it can be asked at test time.

    Raises:
        ValueError: there is no kind to ask.
    """
    if not kinds:
        raise ValueError("kinds is empty: there is nothing to ask")
    conversations = []
    for digit in torch.as_tensor(labels).tolist():
        kind = kinds[_draw(len(kinds), generator)]
        asked = question(kind, _draw(len(kind.phrasings) - 1, generator))
        conversations.append([*asked, {"role": "assistant", "content": kind.answer(digit)}])
    return conversations


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=generator))
