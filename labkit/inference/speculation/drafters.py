"""Who guesses: the interface of a drafter, a smaller model, and the text's own repetitions."""

import copy
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.inference.sampling import SamplingConfig, next_token_distribution, sample
from labkit.inference.speculation.cached_model import CachedModel
from labkit.model.minillm import MiniLLM
from labkit.model.tokenizer import Tokenizer
from labkit.tuning import soft_prompt


class Proposal(NamedTuple):
    """Guessed tokens, and the law (k, V) that each was drawn from; None where it was certain."""

    tokens: list[int]
    q: Float[Tensor, "k V"] | None


@runtime_checkable
class Drafter(Protocol):
    """Guesses how one request goes on. `begin` makes a new request's drafter from any other."""

    name: str

    def check(self, vocab_size: int, tokenizer: Tokenizer | None) -> None:
        """Refuse a target whose tokens are others.

        Raises:
            ValueError: With the drafter's name.
        """

    def begin(
        self, config: SamplingConfig, generator: torch.Generator, *, max_length: int
    ) -> "Drafter":
        """A drafter for a new request: it shares the weights, and no state.

        Args:
            config: How the target chooses tokens; a model drafts in the same way.
            generator: The request's own, from which draft and target draw in turn.
            max_length: Most tokens of the request that will ever be read, prompt included.
        """

    def propose(self, ids: Sequence[int], k: int) -> Proposal:
        """At most k tokens to follow `ids`, which are all the request has: the prompt at first."""

    def rollback(self, length: int) -> None:
        """Forget what was read or guessed beyond the request's first `length` tokens."""

    def copy(self, generator: torch.Generator) -> "Drafter":
        """A fork of the request, which goes on by itself with a generator of its own."""


class ModelDrafter:
    """A cheaper model of the same vocabulary, which writes k tokens one by one.

    At a temperature it draws them from its own truncated distribution and hands that over as q;
    greedy, it takes its best token, which is certain. Its KV cache holds the request's tokens and
    all its guesses but the last.

    Args:
        model: The draft model, in eval mode: smaller, quantized, or with fewer layers.
        tokenizer: Its tokenizer; given, it must be the target's, token for token.
        name: What errors call it.
    """

    def __init__(
        self, model: MiniLLM, *, tokenizer: Tokenizer | None = None, name: str = "draft model"
    ) -> None:
        self.name = name
        self.model = model
        self._tokenizer = tokenizer
        self._reader: CachedModel | None = None
        self._read: list[int] = []
        self._config = SamplingConfig()
        self._generator = torch.Generator()

    def check(self, vocab_size: int, tokenizer: Tokenizer | None) -> None:
        V = self.model.config.vocab_size
        other = (
            tokenizer is not None
            and self._tokenizer is not None
            and _vocabulary(tokenizer) != _vocabulary(self._tokenizer)
        )
        if vocab_size != V or other:
            raise ValueError(
                f"{self.name} has another vocabulary (of {V}) than the model (of {vocab_size}), so "
                "its tokens mean nothing to it: draft with a model of the same tokenizer, with "
                "skipped layers of the model itself, or with n-grams"
            )

    def begin(
        self, config: SamplingConfig, generator: torch.Generator, *, max_length: int
    ) -> "ModelDrafter":
        if self.model.training:
            raise ValueError(f"{self.name} is in training mode: call its eval() first")
        limit = self.model.config.max_length - soft_prompt.virtual_tokens(self.model)
        new = copy.copy(self)
        new._reader = CachedModel(self.model, max_length=min(max_length, limit))
        new._read = []
        new._config = config
        new._generator = generator
        return new

    def propose(self, ids: Sequence[int], k: int) -> Proposal:
        """As `Drafter.propose`; fewer than k tokens, or none, at the end of the draft's context.

        Raises:
            ValueError: No request was begun, or rejected guesses were not rolled back.
        """
        reader = self._begun()
        if self._read != list(ids[: len(self._read)]):
            raise ValueError(f"{self.name} has read other tokens than these: call rollback first")
        self.rollback(len(ids) - 1)  # the last token's logits are wanted, so it is read again
        pending, tokens, laws = list(ids[len(self._read) :]), [], []
        for _ in range(min(k, reader.max_length - len(ids) + 1)):
            logits = reader.read(pending, last_only=True)
            self._read += pending
            if self._config.temperature == 0:
                token = int(logits.argmax(dim=-1))
            else:
                laws.append(next_token_distribution(logits, self._config))
                token = int(sample(laws[-1], [self._generator]))
            tokens.append(token)
            pending = [token]
        return Proposal(tokens, torch.cat(laws) if laws else None)

    def rollback(self, length: int) -> None:
        if length < len(self._read):
            self._begun().truncate(length)
            del self._read[length:]

    def copy(self, generator: torch.Generator) -> "ModelDrafter":
        new = copy.copy(self)
        new._reader = self._begun().copy()
        new._read = list(self._read)
        new._generator = generator
        return new

    def _begun(self) -> CachedModel:
        if self._reader is None:
            raise ValueError(f"{self.name} has no request yet: call begin")
        return self._reader


class NgramDrafter:
    """Copies what followed the last tokens when they came before: no model, no cost.

    The longest suffix of at most `longest` tokens that occurred earlier decides, its latest
    occurrence first. A copy that reaches its own beginning goes on from there, so that a text in a
    loop is guessed to stay in it.

    Paper: copying from a reference text, arXiv 2304.04487. Differs: prompt and text so far are the
    reference.

    Args:
        longest: Tokens of the longest suffix that is looked up.
        shortest: Of the shortest; fewer match oftener and are right less often.

    Raises:
        ValueError: 1 <= shortest <= longest does not hold.
    """

    name = "n-gram drafter"

    def __init__(self, *, longest: int = 3, shortest: int = 1) -> None:
        if not 1 <= shortest <= longest:
            raise ValueError(f"shortest={shortest} must lie between 1 and longest={longest}")
        self._sizes = range(longest, shortest - 1, -1)
        self._follows: dict[tuple[int, ...], int] = {}
        self._indexed: list[int] = []

    def check(self, vocab_size: int, tokenizer: Tokenizer | None) -> None:
        """Copied tokens are the target's own."""

    def begin(
        self, config: SamplingConfig, generator: torch.Generator, *, max_length: int
    ) -> "NgramDrafter":
        new = copy.copy(self)
        new._follows, new._indexed = {}, []
        return new

    def propose(self, ids: Sequence[int], k: int) -> Proposal:
        """As `Drafter.propose`; none where no suffix came before. O(1) for each new token."""
        self._index(ids)
        for n in self._sizes:
            start = self._follows.get(tuple(ids[-n:])) if n < len(ids) else None
            if start is not None:
                text = list(ids[start:])
                for place in range(k):
                    text.append(text[place])
                return Proposal(text[:k], None)
        return Proposal([], None)

    def rollback(self, length: int) -> None:
        if length < len(self._indexed):
            self._follows, self._indexed = {}, []

    def copy(self, generator: torch.Generator) -> "NgramDrafter":
        new = copy.copy(self)
        new._follows, new._indexed = dict(self._follows), list(self._indexed)
        return new

    def _index(self, ids: Sequence[int]) -> None:
        """Note where the text goes on after each n-gram but the last."""
        if self._indexed != list(ids[: len(self._indexed)]):
            raise ValueError(f"{self.name} has read other tokens than these: call rollback first")
        for place in range(max(1, len(self._indexed)), len(ids)):
            for n in self._sizes:
                if n <= place:
                    self._follows[tuple(ids[place - n : place])] = place
        self._indexed = list(ids)


def _vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    return tokenizer.backend.get_vocab(with_added_tokens=True)
