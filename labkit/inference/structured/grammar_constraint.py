"""The constraint by hand: one sequence's state in a grammar's automaton."""

from jaxtyping import Bool
from torch import Tensor

from labkit.inference.structured.automaton import DEAD, START
from labkit.inference.structured.closing import Completions
from labkit.inference.structured.masks import TokenMasks


class GrammarConstraint:
    """Holds one text to a grammar, token by token.

    A text that ends with the end-of-sequence token matches. One cut off before, by a token limit,
    is a prefix of a text that matches (and the generation's `finish_reason` says "length"), unless
    `close_within` was given: then every text is completed in time.

    Args:
        completions: The grammar over the tokenizer's tokens; all sequences that follow it share it.
        close_within: Most tokens of the text, the end of the sequence included; as it comes near,
            only tokens are allowed after which the text can still be completed. None: no limit.

    Raises:
        ValueError: No text of the grammar is that short.
    """

    def __init__(self, completions: Completions, *, close_within: int | None = None) -> None:
        self._completions = completions
        self._left = close_within
        self._ended = False
        self.state = START
        if close_within is not None:
            completions.require(close_within)

    @property
    def masks(self) -> TokenMasks:
        """The grammar's masks and, in them, its automaton."""
        return self._completions.masks

    @property
    def complete(self) -> bool:
        """The text so far matches as it is."""
        return self.masks.automaton.accepting(self.state)

    @property
    def finished(self) -> bool:
        """The text is complete, and no token but the end of the sequence may follow."""
        return self._ended or (self.complete and int(self.allowed().sum()) == 1)

    def tokens_to_finish(self) -> int:
        """The fewest tokens known to end the text, the end of the sequence included."""
        return self._completions.tokens(self.state) + 1

    def allowed(self) -> Bool[Tensor, "V"]:
        """True at every token that may come next; at least one is, also at the end."""
        if self._ended:
            only_eos = self.masks.allowed(self.state).zero_()
            only_eos[self.masks.eos_id] = True
            return only_eos
        if self._left is None:
            return self.masks.allowed(self.state)
        return self._completions.allowed(self.state, self._left)

    def advance(self, token: int) -> None:
        """Take a token that `allowed` holds.

        Raises:
            ValueError: The token may not come here.
        """
        following = self._after(token)
        if following == DEAD or (self._ended and token != self.masks.eos_id):
            raise ValueError(f"token {token} may not come here: draw one that allowed() holds")
        self.state = following
        self._ended = token == self.masks.eos_id
        if self._left is not None:
            self._left -= 1

    def copy(self) -> "GrammarConstraint":
        """The same state, advanced apart from this one; for n-best and beams."""
        other = GrammarConstraint(self._completions)
        other.state, other._left, other._ended = self.state, self._left, self._ended
        return other

    def _after(self, token: int) -> int:
        """The state after a token, DEAD if it is not allowed."""
        masks = self.masks
        if token == masks.eos_id:
            return self.state if self.complete else DEAD
        text = masks.trie.tokens[token] if 0 <= token < len(masks.trie.tokens) else None
        state = masks.automaton.read(text, self.state) if text else DEAD
        if not masks.automaton.distance[state] < float("inf"):
            return DEAD
        late = self._left is not None and self._completions.tokens(state) > self._left - 2
        return DEAD if late else state
