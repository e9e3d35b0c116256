"""What changes a logit before anything else: a bias by token, penalties by what was said."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


class LogitBias(Mapping[int, float]):
    """Token id to what is added to its logit; never changes, so that it can be hashed."""

    __slots__ = ("_bias",)

    def __init__(self, bias: Mapping[int, float] | None = None) -> None:
        self._bias = dict(bias or {})

    def __getitem__(self, token: int) -> float:
        return self._bias[token]

    def __iter__(self) -> Iterator[int]:
        return iter(self._bias)

    def __len__(self) -> int:
        return len(self._bias)

    def __hash__(self) -> int:
        return hash(frozenset(self._bias.items()))

    def __repr__(self) -> str:
        return f"LogitBias({self._bias})"


def penalised(
    scores: Float[Tensor, " N"],
    counts: Float[Tensor, " N"],
    *,
    repetition: float | Float[Tensor, " N"] = 1.0,
    presence: float | Float[Tensor, " N"] = 0.0,
    frequency: float | Float[Tensor, " N"] = 0.0,
) -> Float[Tensor, " N"]:
    """s' = (s / r if s >= 0 else s * r) - frequency * c - presence * [c > 0], of tokens seen.

    Division by r > 1 alone would raise a negative score; that is why the sign decides.

    Paper: repetition arXiv 1909.05858, section 4.1; the other two are the OpenAI API's.
    Differs: the paper divides whatever the sign; this is transformers' and vLLM's form.

    Args:
        scores: Logits of N tokens, each in the prompt or the output.
        counts: c, how often the output has each; 0 for a token of the prompt alone.
        repetition: r, 1 for none.
        presence: Of being in the output at all, in nats.
        frequency: Of each time in the output, in nats.
    """
    scores = torch.where(scores < 0, scores * repetition, scores / repetition)
    return scores - frequency * counts - presence * (counts > 0)


class SeenTokens:
    """The tokens of a prompt and its output, each once, and how often the output has it.

    Args:
        prompt: Its token ids.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        distinct = list(dict.fromkeys(prompt))
        self._place = {token: place for place, token in enumerate(distinct)}
        self._ids = torch.tensor(distinct, dtype=torch.long)
        self._counts = torch.zeros(len(distinct))

    @property
    def ids(self) -> Int[Tensor, " N"]:
        """The N different tokens, in the order of their first appearance."""
        return self._ids[: len(self._place)]

    @property
    def counts(self) -> Float[Tensor, " N"]:
        """How often the output has each of them."""
        return self._counts[: len(self._place)]

    def add(self, token: int) -> None:
        """Count a token of the output, in constant time on the average."""
        place = self._place.setdefault(token, len(self._place))
        if place == len(self._ids):
            room = torch.zeros(max(16, place))
            self._ids = torch.cat((self._ids, room.long()))
            self._counts = torch.cat((self._counts, room))
        self._ids[place] = token
        self._counts[place] += 1
