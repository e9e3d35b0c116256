"""Which tokens may come next: one walk of the vocabulary's trie through the grammar's automaton."""

from collections import OrderedDict

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from labkit.inference.structured.automaton import Automaton
from labkit.inference.structured.trie import ROOT, TokenTrie

MAX_MASKS = 1024


class TokenMasks:
    """The tokens allowed in each state of an automaton.

    A token is read byte by byte like any other text: it may begin inside a character, cross the
    borders of the grammar's parts (`"}`, `": "`) and end anywhere, provided that the text can
    still be completed from there.

    Paper: arXiv 2307.09702 walks single tokens from every state; sharing their prefixes in a trie
    is llguidance's and XGrammar's (arXiv 2411.15100).
    Differs: no split into tokens that do and do not depend on the stack; the walk is one gather a
    level instead.

    Args:
        trie: The vocabulary, of V ids.
        automaton: The grammar.
        eos_id: Allowed exactly where the text is complete.
    """

    def __init__(self, trie: TokenTrie, automaton: Automaton, eos_id: int) -> None:
        self.trie = trie
        self.automaton = automaton
        self.eos_id = eos_id
        self._masks: OrderedDict[int, Tensor] = OrderedDict()

    def allowed(self, state: int) -> Bool[Tensor, "V"]:
        """True at the tokens allowed in `state`; kept for the MAX_MASKS states used last."""
        mask = self._masks.get(state)
        if mask is None:
            ends = self.ends(state)  # first: the walk may make new states
            mask = self.only(state, np.isfinite(self.automaton.distance[ends]))
        self._masks[state] = mask
        self._masks.move_to_end(state)
        if len(self._masks) > MAX_MASKS:
            self._masks.popitem(last=False)
        return mask.clone()

    def ends(self, state: int) -> NDArray[np.int32]:
        """For each token, the state that it leads to; DEAD (0) if it cannot come."""
        automaton = self.automaton
        reached = np.zeros(self.trie.num_nodes, dtype=np.int32)
        reached[ROOT] = state
        for level in self.trie.levels:
            origins = reached[level.parents]
            if not origins.any():
                break
            automaton.prepare(origins)
            reached[level.begin : level.end] = automaton.table[origins, level.bytes]
        return reached[self.trie.node_of_token]

    def only(self, state: int, tokens: NDArray[np.bool_]) -> Bool[Tensor, "V"]:
        """These tokens, and the end of the sequence where the text is complete."""
        mask = torch.from_numpy(tokens)
        mask[self.eos_id] = self.automaton.accepting(state)
        return mask
