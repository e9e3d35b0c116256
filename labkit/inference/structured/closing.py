"""How few tokens complete a text, so that it can be closed before its budget ends."""

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from labkit.inference.structured.automaton import START
from labkit.inference.structured.masks import TokenMasks

MAX_SEARCHED = 400


class Completions:
    """Tokens needed from each state of a grammar, the end of the sequence not counted.

    The upper bound is the state's *canonical* completion, the first in byte order of those with
    the fewest bytes, cut into as few tokens as it can be. What is left of it after a token is
    again canonical for the state reached, so a text that is within its bound can always stay
    within it. Text with more bytes may need fewer tokens: where the bound is too high for a
    budget, a breadth-first search over up to MAX_SEARCHED states looks for it.

    Args:
        masks: The grammar's token masks.
    """

    def __init__(self, masks: TokenMasks) -> None:
        self.masks = masks
        self._tokens: dict[int, int] = {}
        self._spellable = np.array(sorted(masks.trie.spellable))

    def tokens(self, state: int) -> int:
        """The fewest tokens known to complete a text from a state that can be completed."""
        if state not in self._tokens:
            self._cut(*self._canonical(state))
        return self._tokens[state]

    def require(self, budget: int, state: int = START) -> None:
        """See that a text can be completed within `budget` tokens and the end of the sequence.

        Raises:
            ValueError: It cannot.
        """
        if self.tokens(state) + 1 > budget and not self._search(state, budget - 1):
            raise ValueError(
                f"a budget of {budget} tokens is too small: the shortest text needs "
                f"{self.tokens(state) + 1}, the end of the sequence included"
            )

    def allowed(self, state: int, budget: int) -> Bool[Tensor, "V"]:
        """The allowed tokens after which the text can still be completed.

        Args:
            state: Where the text is, within its budget so far.
            budget: Tokens left, the end of the sequence included.
        """
        ends = self.masks.ends(state)
        distances = self.masks.automaton.distance
        states = np.unique(ends)
        within = np.zeros(len(distances), dtype=bool)
        for reached in states[np.isfinite(distances[states])].tolist():
            # One token now, and one for the end of the sequence. A token has at least one byte.
            within[reached] = distances[reached] <= budget - 2 or self.tokens(reached) <= budget - 2
        return self.masks.only(state, within[ends])

    def _canonical(self, state: int) -> tuple[bytes, list[int]]:
        """The canonical completion and the states it passes, both ends included.

        All states of a completion that was cut before are known: one token's length of them is
        enough to cut what comes before.
        """
        automaton, longest = self.masks.automaton, self.masks.trie.longest
        text, states, known = bytearray(), [state], 0
        while known <= longest and not automaton.accepting(states[-1]):
            following = automaton.row(states[-1])[self._spellable]
            nearer = automaton.distance[states[-1]] - 1
            first = int(np.argmax(automaton.distance[following] == nearer))
            text.append(self._spellable[first])
            states.append(int(following[first]))
            known += states[-1] in self._tokens
        return bytes(text), states

    def _cut(self, text: bytes, states: list[int]) -> None:
        """tokens[i] = 1 + min over tokens text[i:j] of tokens[j], from the end."""
        trie = self.masks.trie
        for begin in range(len(text), -1, -1):
            if states[begin] in self._tokens:
                continue
            ends = range(begin + 1, min(begin + trie.longest, len(text)) + 1)
            found = [self._tokens[states[end]] for end in ends if text[begin:end] in trie.texts]
            self._tokens[states[begin]] = 1 + min(found) if begin < len(text) else 0

    def _search(self, start: int, most: int) -> bool:
        """Look for a completion of at most `most` tokens, breadth first, and note it."""
        automaton, longest = self.masks.automaton, self.masks.trie.longest
        came_from = {start: start}
        level = [start]
        for used in range(1, most + 1):
            following = []
            for state in level:
                for reached in np.unique(self.masks.ends(state)).tolist():
                    fewest = used + automaton.distance[reached] / longest
                    if reached in came_from or fewest > most:
                        continue
                    came_from[reached] = state
                    following.append(reached)
                    if used + self.tokens(reached) <= most:
                        self._note(reached, came_from)
                        return True
                if len(came_from) > MAX_SEARCHED:
                    return False
            level = following
        return False

    def _note(self, state: int, came_from: dict[int, int]) -> None:
        while came_from[state] != state:
            tokens = self._tokens[state] + 1
            state = came_from[state]
            self._tokens[state] = min(tokens, self.tokens(state))
