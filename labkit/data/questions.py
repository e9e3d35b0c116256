"""Questions with known answers from documentation: chats to tune on, multiple-choice to score."""

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labkit.data.chat import Message
from labkit.data.doc_text import normalised
from labkit.data.pydoc_corpus import FunctionDoc

PHRASINGS = (
    "What does `{name}` do?",
    "Explain `{name}` in Python.",
    "What is `{name}` for?",
    "Describe what `{name}` does.",
    "Tell me about `{name}`.",
)
NUM_CHOICES = 4
_NEIGHBOURS = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A multiple-choice question; `answer` is the index of the right choice."""

    question: str
    choices: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        if not 0 <= self.answer < len(self.choices):
            raise ValueError(f"answer={self.answer} must index one of {len(self.choices)} choices")
        if len(set(self.choices)) != len(self.choices):
            raise ValueError(f"choices must differ, got {self.choices}")


def question_answers(
    functions: Sequence[FunctionDoc], *, phrasings: int = 1
) -> list[list[Message]]:
    """Chats of one question and its answer, the function's summary.

    Args:
        functions: what to ask about.
        phrasings: wordings per function, 1 to 5; which ones, its name decides.

    Raises:
        ValueError: there are not that many wordings.
    """
    if not 1 <= phrasings <= len(PHRASINGS):
        raise ValueError(f"phrasings={phrasings} must lie between 1 and {len(PHRASINGS)}")
    chats = []
    for function in functions:
        first = hashlib.sha256(function.name.encode()).digest()[-1]
        for i in range(first, first + phrasings):
            question = PHRASINGS[i % len(PHRASINGS)].format(name=function.name)
            chats.append(
                [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": function.summary},
                ]
            )
    return chats


def multiple_choice(
    functions: Sequence[FunctionDoc], *, count: int, rng: np.random.Generator
) -> list[Item]:
    """Items "What does `f` do?" with f's summary and three others of about the same length.

    No two choices read the same, no distractor is of a function with the same last name (the
    `split` of str and of bytes do the same), and the answer's place is uniform.

    Args:
        functions: what to ask about and to take distractors from.
        count: items, each on another function.
        rng: draws functions, distractors and places.

    Raises:
        ValueError: more items than functions, or too few different summaries.
    """
    if not 0 <= count <= len(functions):
        raise ValueError(f"count={count} items need as many functions, got {len(functions)}")
    by_length = sorted(functions, key=lambda f: (len(f.summary), f.name))
    return [_item(functions[i], by_length, rng) for i in rng.permutation(len(functions))[:count]]


def _item(
    function: FunctionDoc, by_length: Sequence[FunctionDoc], rng: np.random.Generator
) -> Item:
    distractors = _distractors(function, by_length)
    if len(distractors) < NUM_CHOICES - 1:
        raise ValueError(
            f"{function.name} needs {NUM_CHOICES - 1} distractors, but among {len(by_length)} "
            f"functions only {len(distractors)} other summaries fit: pass more functions"
        )
    chosen = rng.permutation(len(distractors))[: NUM_CHOICES - 1]
    choices = [distractors[i] for i in chosen]
    answer = int(rng.integers(NUM_CHOICES))
    choices.insert(answer, function.summary)
    question = PHRASINGS[0].format(name=function.name)
    return Item(question=question, choices=tuple(choices), answer=answer)


def _distractors(function: FunctionDoc, by_length: Sequence[FunctionDoc]) -> list[str]:
    """Up to `_NEIGHBOURS` different summaries, nearest in length first."""
    place = bisect_left(by_length, len(function.summary), key=lambda f: len(f.summary))
    before, after = place - 1, place
    last_name = function.name.rpartition(".")[2]
    seen = {normalised(function.summary)}
    found: list[str] = []
    while len(found) < _NEIGHBOURS and (before >= 0 or after < len(by_length)):
        gaps = [
            abs(len(by_length[i].summary) - len(function.summary))
            if 0 <= i < len(by_length)
            else np.inf
            for i in (before, after)
        ]
        if gaps[0] < gaps[1]:
            other, before = by_length[before], before - 1
        else:
            other, after = by_length[after], after + 1
        text = normalised(other.summary)
        if text not in seen and other.name.rpartition(".")[2] != last_name:
            seen.add(text)
            found.append(other.summary)
    return found
