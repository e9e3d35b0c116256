"""A vocabulary as a trie of its tokens' bytes, laid out level by level in arrays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROOT = 0


@dataclass(frozen=True, slots=True)
class Level:
    """The nodes of one depth: numbers `begin` to `end`, the node each hangs on, and its byte."""

    begin: int
    end: int
    parents: NDArray[np.int32]
    bytes: NDArray[np.uint8]


class TokenTrie:
    """All prefixes of all tokens; node 0 is the empty one, and the last node is never reached.

    Tokens that share a prefix share its nodes, so each prefix is read once for all of them.
    Memory: 5 bytes a node, 4 a token.

    Args:
        tokens: The bytes of each id; None or nothing for ids that no text contains, such as
            special tokens.

    Attributes:
        tokens: As given.
        levels: Depth 1, 2, … up to the longest token.
        node_of_token: The node where each id ends; `num_nodes - 1` for those without bytes.
        num_nodes: The unreachable one included.
        texts: The distinct byte strings.
        longest: Bytes of the longest.
        spellable: Bytes that are a token by themselves.
    """

    def __init__(self, tokens: list[bytes | None]) -> None:
        self.tokens = tokens
        self.texts = frozenset(text for text in tokens if text)
        self.longest = max(map(len, self.texts), default=0)
        self.spellable = frozenset(text[0] for text in self.texts if len(text) == 1)
        nodes, self.levels = {b"": ROOT}, []
        remaining = sorted(self.texts)
        for depth in range(1, self.longest + 1):
            remaining = [text for text in remaining if len(text) >= depth]
            self.levels.append(_level([text[:depth] for text in remaining], nodes))
        self.num_nodes = len(nodes) + 1
        ends = [nodes[text] if text else len(nodes) for text in tokens]
        self.node_of_token = np.array(ends, dtype=np.int32)


def _level(prefixes: list[bytes], nodes: dict[bytes, int]) -> Level:
    """Number the distinct prefixes of one length; their parents are among the shorter ones."""
    begin, distinct = len(nodes), list(dict.fromkeys(prefixes))
    nodes.update({prefix: begin + index for index, prefix in enumerate(distinct)})
    return Level(
        begin=begin,
        end=len(nodes),
        parents=np.array([nodes[prefix[:-1]] for prefix in distinct], dtype=np.int32),
        bytes=np.array([prefix[-1] for prefix in distinct], dtype=np.uint8),
    )
