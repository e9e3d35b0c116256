"""Multiple choice without generation: the answer is the choice the model finds likeliest.

Two ways to ask, which measure different things:
- "letter": the choices are listed and the model continues "Answer:" with " A", " B", ...; it must
  understand lettered lists, and small models favour one letter whatever the question.
- "text": the model continues with the choice itself, which it never saw listed; long choices have
  lower likelihood, which a length normalisation may set right.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import nn

from labkit.data.questions import Item
from labkit.evaluation.scoring import judged, log_probs_from, next_token_log_probs
from labkit.model.tokenizer import Tokenizer

METHODS = ("letter", "text")
NORMALISATIONS = ("none", "tokens", "bytes")


@dataclass(frozen=True, slots=True, eq=False)
class MultipleChoiceResult:
    """What the model made of every item.

    Args:
        correct: whether the right choice alone had the highest score.
        predicted: index of the choice with the highest score; -1 if several share it.
        log_probs: summed log-probability of every choice in nats; -inf beyond an item's choices.
    """

    correct: Bool[np.ndarray, "N"]
    predicted: Int[np.ndarray, "N"]
    log_probs: Float[np.ndarray, "N C"]

    @property
    def accuracy(self) -> float:
        """Share of correct items."""
        return float(self.correct.mean())


def score(
    model: nn.Module,
    tokenizer: Tokenizer,
    items: Sequence[Item],
    *,
    method: str = "letter",
    few_shot: Sequence[Item] = (),
    normalise: str = "none",
) -> MultipleChoiceResult:
    """Picks for every item the choice of largest log p(choice | few-shot examples, question).

    Args:
        model: MiniLLM, or a transformers causal language model.
        tokenizer: the model's.
        items: questions with their choices and answers.
        method: "letter" or "text".
        few_shot: solved examples put before every question; none of the items themselves.
        normalise: divide the log-probability of a choice by its number of "tokens", or of UTF-8
            "bytes" without the leading space (lm-eval's acc_norm counts characters), or "none".

    Raises:
        ValueError: no items, an unknown method or normalisation, an item that is also a few-shot
            example, or more choices than letters.
    """
    _check(items, few_shot, method, normalise)
    examples = "".join(format_item(item, method, solved=True) + "\n\n" for item in few_shot)
    log_probs = np.full((len(items), max(len(item.choices) for item in items)), -np.inf)
    scores = log_probs.copy()
    with judged(model):
        for index, item in enumerate(items):
            prompt = tokenizer.encode(examples + format_item(item, method))
            texts = continuations(item, method)
            choices = [tokenizer.encode(text) for text in texts]
            found = np.array(continuation_log_probs(model, prompt, choices))
            log_probs[index, : len(texts)] = found
            scores[index, : len(texts)] = found / _lengths(texts, choices, normalise)
    best = scores.max(axis=1, keepdims=True)
    predicted = np.where((scores == best).sum(axis=1) == 1, scores.argmax(axis=1), -1)
    correct = predicted == np.array([item.answer for item in items])
    return MultipleChoiceResult(correct, predicted, log_probs)


def format_item(item: Item, method: str, *, solved: bool = False) -> str:
    """The question as the model reads it, ending in "Answer:", or in the answer if `solved`."""
    lines = [f"Question: {item.question}"]
    if method == "letter":
        lines += [
            f"{letter}. {choice}"
            for letter, choice in zip(string.ascii_uppercase, item.choices, strict=False)
        ]
    answer = continuations(item, method)[item.answer] if solved else ""
    return "\n".join([*lines, f"Answer:{answer}"])


def continuations(item: Item, method: str) -> list[str]:
    """What may follow "Answer:", each with the leading space that makes its first token whole."""
    if method == "letter":
        return [f" {letter}" for letter in string.ascii_uppercase[: len(item.choices)]]
    return [f" {choice}" for choice in item.choices]


@torch.no_grad()
def continuation_log_probs(
    model: nn.Module, prompt: list[int], choices: list[list[int]]
) -> list[float]:
    """Summed log p(choice | prompt) in nats for choices of any lengths, in one forward pass.

    Choices of one token are read off a single row's next-token distribution. Otherwise rows are
    padded on the right, where a causal model does not look. Prompt and choice are encoded apart
    and joined, so that all choices continue the very same tokens.

    Raises:
        ValueError: the prompt or a choice is empty.
    """
    if not prompt or not all(choices):
        raise ValueError("the prompt and every choice need at least one token")
    if all(len(choice) == 1 for choice in choices):
        following = next_token_log_probs(model, torch.tensor([prompt]))[0]
        return [float(following[choice[0]]) for choice in choices]
    width = len(prompt) + max(len(choice) for choice in choices)
    rows = [prompt + choice for choice in choices]
    ids = torch.tensor([row + [row[-1]] * (width - len(row)) for row in rows])
    log_probs = log_probs_from(model, ids, len(prompt)).double()
    return [float(row[: len(choice)].sum()) for row, choice in zip(log_probs, choices, strict=True)]


def _lengths(texts: list[str], choices: list[list[int]], normalise: str) -> Float[np.ndarray, "C"]:
    if normalise == "none":
        return np.ones(len(texts))
    if normalise == "tokens":
        return np.array([float(len(choice)) for choice in choices])
    return np.array([float(len(text[1:].encode())) for text in texts])


def _check(items: Sequence[Item], few_shot: Sequence[Item], method: str, normalise: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method={method!r} must be one of {METHODS}")
    if normalise not in NORMALISATIONS:
        raise ValueError(f"normalise={normalise!r} must be one of {NORMALISATIONS}")
    if not items:
        raise ValueError("there is no item to score")
    leaked = {item.question for item in items} & {item.question for item in few_shot}
    if leaked:
        raise ValueError(f"few-shot example {min(leaked)!r} is also an item: its answer would leak")
    most = max(len(item.choices) for item in (*items, *few_shot))
    if method == "letter" and most > len(string.ascii_uppercase):
        raise ValueError(f"{most} choices are more than the letters A-Z; use method='text'")
