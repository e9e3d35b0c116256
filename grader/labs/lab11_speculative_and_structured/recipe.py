"""The run at the end of lab 11: SmolLM2's texts, and the passes that a learner's code takes.

Greedy, a text does not depend on who guesses: it is written once, stored with the envelope, and
read back by `Replay`, so that any drafter at any number of guesses is measured exactly and soon.
`python -m grader.labs.lab11_speculative_and_structured.recipe` measures drafters of several kinds
and writes `solutions/lab11_speculative_and_structured/envelope.json`, the normal results that a
learner's curves are drawn over.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grader.labs import envelope
from labkit.inference import generate
from labkit.inference.sampling import SamplingConfig
from labkit.inference.speculation.cached_model import CachedModel
from labkit.inference.speculation.drafters import NgramDrafter
from labkit.model.minillm import MiniLLM
from labkit.model.tokenizer import Tokenizer
from labkit.model.zoo import Loaded

NEW_TOKENS = 96
GUESSES = (1, 2, 3, 4, 6, 8)
PROSE = (
    "The river Vltava flows through the city of Prague. The city of Prague lies on the river, and "
    "the river flows on to the north. In the north the river meets the Elbe, and the Elbe flows on "
    "to the sea."
)
CODE = """\
def area(width, height):
    return width * height


def perimeter(width, height):
    return 2 * (width + height)


def volume(width, height, depth):
    return width * height * depth
"""
LINES = """\
name: Ada, city: London, born: 1815
name: Alan, city: London, born: 1912
name: Grace, city: New York, born: 1906
"""
TASKS: dict[str, tuple[str, ...]] = {
    "copying": (
        f"Repeat this text word for word:\n\n{PROSE}",
        f"Write this code again, with a docstring for each function:\n\n{CODE}",
        f"Write these lines as a list of JSON objects:\n\n{LINES}",
    ),
    "writing": (
        "Tell a story about a fox and a crow.",
        "How does a vaccine work?",
        "Write a short poem about the sea.",
    ),
}
Draft = Callable[[list[int], int], list[int]]
Speculate = Callable[[Any, Draft, list[int], int, int, int], list[int]]
Text = tuple[list[int], list[int]]  # a prompt's tokens, and those that the model wrote


def encode_question(tokenizer: Tokenizer, question: str) -> list[int]:
    """A question in the chat template, as tokens."""
    return tokenizer.encode(tokenizer.apply_chat([{"role": "user", "content": question}]))


def texts(loaded: Loaded) -> dict[str, list[Text]]:
    """What the model answers to each task's prompts, greedy, up to NEW_TOKENS tokens."""
    config = SamplingConfig(max_new_tokens=NEW_TOKENS)
    written: dict[str, list[Text]] = {}
    for task, questions in TASKS.items():
        written[task] = []
        for question in questions:
            ids = encode_question(loaded.tokenizer, question)
            text = loaded.tokenizer.decode(ids, skip_special=False)
            [answer] = generate.generate(loaded.model, loaded.tokenizer, text, config)
            written[task].append((ids, answer.ids))
    return written


class CountedModel:
    """A model with a cache of one text, as exercise 4 has it, that counts its passes."""

    def __init__(self, model: MiniLLM, max_length: int) -> None:
        self._reader = CachedModel(model, max_length=max_length)
        self.passes = 0

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self._reader.length

    def read(self, tokens: Sequence[int]) -> Tensor:
        """Logits (T, V) after each of T new tokens."""
        self.passes += 1
        return self._reader.read(tokens)

    def truncate(self, length: int) -> None:
        """Forget every token from position `length` on."""
        self._reader.truncate(min(length, self.length))


class Replay:
    """A model that has written its text already, and counts its passes.

    Where it is asked about guesses that are not its own, what it would have said is not known and
    not needed: such logits are all 0.
    """

    def __init__(self, prompt: Sequence[int], text: Sequence[int]) -> None:
        self._all, self._held = [*prompt, *text], 0
        self._vocab_size = max(self._all) + 1
        self.passes = 0

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self._held

    def read(self, tokens: Sequence[int]) -> Tensor:
        """Logits that are 1 at the token that the text goes on with."""
        logits = torch.zeros(len(tokens), self._vocab_size)
        right = True
        for row, token in enumerate(tokens):
            place = self._held + row
            right = right and place + 1 < len(self._all) and token == self._all[place]
            if right:
                logits[row, self._all[place + 1]] = 1.0
        self._held += len(tokens)
        self.passes += 1
        return logits

    def truncate(self, length: int) -> None:
        """Forget every token from position `length` on."""
        self._held = min(self._held, length)


def tokens_a_pass(speculate: Speculate, draft: Draft, written: Sequence[Text], k: int) -> float:
    """New tokens over passes, the prompts' own passes and tokens left out.

    Raises:
        ValueError: A text is not the one that was written.
    """
    tokens = passes = 0
    for prompt, text in written:
        model = Replay(prompt, text)
        again = speculate(model, draft, list(prompt), k, len(text), -1)
        if again != list(text):
            raise ValueError("the text is not the model's: greedy speculation must not change it")
        tokens, passes = tokens + len(text) - 1, passes + model.passes - 1
    return tokens / passes


def curve(
    speculate: Speculate, draft: Draft, written: Sequence[Text], guesses: Sequence[int] = GUESSES
) -> list[float]:
    """Tokens a pass for each number of guesses."""
    return [tokens_a_pass(speculate, draft, written, k) for k in guesses]


def earliest(longest: int, ids: list[int], k: int) -> list[int]:
    """What followed the first place of the longest suffix."""
    text = list(ids)
    for _ in range(k):
        for n in range(min(longest, len(text) - 1), 0, -1):
            followers = [text[e] for e in range(n, len(text)) if text[e - n : e] == text[-n:]]
            if followers:
                text.append(followers[0])
                break
        else:
            break
    return text[len(ids) :]


def latest(longest: int, ids: list[int], k: int) -> list[int]:
    """What followed the latest place of the longest suffix, as labkit guesses."""
    generator = torch.Generator()
    drafter = NgramDrafter(longest=longest).begin(SamplingConfig(), generator, max_length=len(ids))
    return drafter.propose(ids, k).tokens


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """Bytes of each token; none of special ones."""
    special = tokenizer.special_ids
    return [
        b"" if index in special else tokenizer.token_bytes(index)
        for index in range(tokenizer.vocab_size)
    ]


def population() -> tuple[Tensor, Tensor]:
    """Table (S, 256) and accepting states (S,) of whole numbers with their thousands set apart.

    `7`, `42`, `545,000`, `10,300,000`: at most three digits, then a comma and three more, any
    number of times.
    """
    step = torch.full((8, 256), -1)
    digits = torch.arange(ord("0"), ord("9") + 1)
    step[0, digits[1:]] = 1
    for state, following in ((1, 2), (2, 3), (4, 5), (5, 6), (6, 7)):
        step[state, digits] = following
    step[torch.tensor([1, 2, 3, 7]), ord(",")] = 4
    accepting = torch.zeros(8, dtype=torch.bool)
    accepting[torch.tensor([1, 2, 3, 7])] = True
    return step, accepting


def main(path: Path) -> None:
    """Write the envelope: a row for each drafter and task, and how it was made."""
    from grader.labs.lab11_speculative_and_structured import reference
    from labkit.model import zoo

    written = texts(zoo.load("smollm2-135m", dtype="float32", device="cpu"))
    drafts: Mapping[str, Draft] = {
        f"{name}, longest {longest}": partial(draft, longest)
        for longest in (2, 3, 4)
        for name, draft in (("vote", _vote), ("latest", latest), ("earliest", earliest))
    }
    runs = {
        task: [
            [round(x, 3) for x in curve(reference.speculate, draft, found)]
            for draft in drafts.values()
        ]
        for task, found in written.items()
    }
    for task, rows in runs.items():
        for name, row in zip(drafts, rows, strict=True):
            sys.stderr.write(f"{task}, {name}: {row}\n")
    results = {
        "metric": "new tokens a pass of the model, greedy",
        "unit": "tokens",
        "guesses": GUESSES,
        "runs": runs,
        "implementations": list(drafts),
        "texts": written,
    }
    envelope.write(path, "lab11_speculative_and_structured", results)


def _vote(longest: int, ids: list[int], k: int) -> list[int]:
    from grader.labs.lab11_speculative_and_structured import reference

    return reference.guess_by_vote(ids, k, longest)


if __name__ == "__main__":
    main(Path("solutions/lab11_speculative_and_structured/envelope.json"))
