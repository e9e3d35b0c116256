"""Byte-level byte-pair encoding: learn merges from text, encode and decode with them.

Paper: arXiv:1508.07909v5, Algorithm 1. Differs: the alphabet is the 256 bytes (as in GPT-2), so any
text and any bytes can be encoded, and text is first cut into words that no merge crosses.
"""

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from labkit.data.words import SYMBOLS, split_words

Pair = tuple[int, int]


class BPE:
    """A trained byte-level BPE: ids 0.. are special tokens, then the 256 bytes, then the merges."""

    def __init__(
        self, merges: Sequence[tuple[bytes, bytes]], special_tokens: Sequence[str] = ()
    ) -> None:
        """Build the vocabulary from ranked merges.

        Args:
            merges: pairs of tokens in the order they were learnt; rank 0 is applied first.
            special_tokens: strings that get one id each and are never merged with their context.

        Raises:
            ValueError: a special token is too short or repeated, or a merge uses an unknown token.
        """
        _check_special_tokens(special_tokens)
        self.merges = tuple(merges)
        self.special_tokens = tuple(special_tokens)
        self.tokens: list[bytes] = [token.encode() for token in special_tokens]
        self._special_ids = {token: i for i, token in enumerate(special_tokens)}
        self._ids: dict[bytes, int] = {}
        for byte in SYMBOLS:
            self._add(bytes([byte]))
        self._ranks: dict[Pair, tuple[int, int]] = {}
        for rank, (left, right) in enumerate(self.merges):
            if left not in self._ids or right not in self._ids:
                raise ValueError(f"merge {rank} joins {left!r} and {right!r}: unknown so far")
            pair = (self._ids[left], self._ids[right])
            self._ranks[pair] = (rank, self._add(left + right))
        self._encode_word = lru_cache(maxsize=1 << 16)(self._merge_word)

    def _add(self, token: bytes) -> int:
        """Id of a token, new if it is not there yet: "aa"+"a" and "a"+"aa" are one token."""
        if token not in self._ids:
            self._ids[token] = len(self.tokens)
            self.tokens.append(token)
        return self._ids[token]

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """Ids of a text; special tokens found in it become their own ids (leftmost, longest)."""
        ids: list[int] = []
        for segment in _split_special(text, self.special_tokens):
            if segment in self._special_ids:
                ids.append(self._special_ids[segment])
                continue
            for word in split_words(segment):
                ids.extend(self._encode_word(word.encode()))
        return ids

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids of any bytes, valid UTF-8 or not; bytes are data, so no special token is sought."""
        words = split_words(data.decode(errors="surrogateescape"))
        return [
            i for word in words for i in self._encode_word(word.encode(errors="surrogateescape"))
        ]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes the ids stand for: decode_bytes(encode_bytes(x)) == x for every x.

        Raises:
            ValueError: an id is outside the vocabulary.
        """
        ids = list(ids)
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"id {i} is outside the vocabulary of {self.vocab_size} tokens")
        return b"".join(self.tokens[i] for i in ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids, special tokens included; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode(errors="replace")

    def to_tokenizers(self) -> tokenizers.Tokenizer:
        """The same encoder as an object of the `tokenizers` library, ids equal."""

        def name(token: bytes) -> str:
            return "".join(SYMBOLS[byte] for byte in token)

        vocab = self._special_ids | {name(token): i for token, i in self._ids.items()}
        model = models.BPE(vocab=vocab, merges=[(name(a), name(b)) for a, b in self.merges])
        tokenizer = tokenizers.Tokenizer(model)
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(list(self.special_tokens))
        return tokenizer

    def _merge_word(self, word: bytes) -> tuple[int, ...]:
        """Apply merges to one word, lowest rank first, then leftmost. O(n log n) for n bytes."""
        n = len(word)
        ids = [self._ids[bytes([byte])] for byte in word]
        left, right = list(range(-1, n - 1)), list(range(1, n + 1))
        heap: list[tuple[int, int, Pair, int]] = []

        def push(i: int) -> None:
            if i >= 0 and right[i] < n:
                pair = (ids[i], ids[right[i]])
                if pair in self._ranks:
                    rank, merged = self._ranks[pair]
                    heapq.heappush(heap, (rank, i, pair, merged))

        for i in range(n):
            push(i)
        while heap:
            _, i, pair, merged = heapq.heappop(heap)
            j = right[i]
            if j >= n or (ids[i], ids[j]) != pair:
                continue  # a neighbour has been merged since this was pushed
            ids[i], ids[j], right[i] = merged, -1, right[j]
            if right[j] < n:
                left[right[j]] = i
            push(left[i])
            push(i)
        return tuple(token for token in ids if token >= 0)


class _PairCounts:
    """Counts of adjacent pairs over distinct words, kept current from merge to merge."""

    def __init__(self, words: list[list[int]], multiplicities: list[int]) -> None:
        self.words, self.multiplicities = words, multiplicities
        self.counts: Counter[Pair] = Counter()
        self.places: defaultdict[Pair, set[int]] = defaultdict(set)
        for place in range(len(words)):
            self._count(place, +1)
        self.heap = [(-count, pair) for pair, count in self.counts.items()]
        heapq.heapify(self.heap)

    def _count(self, place: int, sign: int) -> set[Pair]:
        word, multiplicity = self.words[place], self.multiplicities[place]
        pairs = list(pairwise(word))
        for pair in pairs:
            self.counts[pair] += sign * multiplicity
            if sign > 0:
                self.places[pair].add(place)
        return set(pairs)

    def pop_best(self) -> Pair | None:
        """The most frequent pair; among equals the smallest ids, left first (the tie-break)."""
        while self.heap:
            negated, pair = heapq.heappop(self.heap)
            if self.counts[pair] == -negated > 0:
                return pair  # otherwise the count has changed since, and a newer entry exists
        return None

    def merge(self, pair: Pair, merged: int) -> None:
        """Replace the pair by one token in every word that holds it, left to right."""
        changed: set[Pair] = set()
        for place in self.places.pop(pair):
            changed |= self._count(place, -1)
            self.words[place] = list(_replace(self.words[place], pair, merged))
            changed |= self._count(place, +1)
        for other in changed:
            if self.counts[other] > 0:
                heapq.heappush(self.heap, (-self.counts[other], other))


def train_bpe(texts: Iterable[str], *, vocab_size: int, special_tokens: Sequence[str] = ()) -> BPE:
    """Learn merges: join the most frequent pair of adjacent tokens until the vocabulary is full.

    Ties go to the pair with the smallest ids, left token first; ids are those of `BPE`, so the
    merges equal those of `tokenizers`' BpeTrainer with the ByteLevel alphabet. Pairs are counted
    within words and never across special tokens in the text (BpeTrainer does not look for them).

    Args:
        texts: training texts; each is read once.
        vocab_size: tokens wanted, with the special tokens and the 256 bytes. Fewer result when
            the texts hold no further pair.
        special_tokens: strings with an id of their own.

    Raises:
        ValueError: vocab_size leaves no room for the bytes and the special tokens, or `texts` is
            one string, whose characters would be taken for texts.
    """
    if isinstance(texts, str):
        raise ValueError("texts is one string: pass a list of texts")
    base = BPE((), special_tokens)
    if vocab_size < base.vocab_size:
        raise ValueError(f"vocab_size={vocab_size} must be at least {base.vocab_size}")
    frequencies = Counter(
        word.encode()
        for text in texts
        for segment in _split_special(text, special_tokens)
        if segment not in special_tokens
        for word in split_words(segment)
    )
    tokens, ids = list(base.tokens), dict(base._ids)
    pairs = _PairCounts(
        [[ids[bytes([byte])] for byte in word] for word in frequencies], list(frequencies.values())
    )
    merges: list[tuple[bytes, bytes]] = []
    while len(tokens) < vocab_size and (pair := pairs.pop_best()) is not None:
        left, right = tokens[pair[0]], tokens[pair[1]]
        if left + right not in ids:
            ids[left + right] = len(tokens)
            tokens.append(left + right)
        merges.append((left, right))
        pairs.merge(pair, ids[left + right])
    return BPE(merges, special_tokens)


def _replace(word: list[int], pair: Pair, merged: int) -> Iterator[int]:
    i = 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            yield merged
            i += 2
        else:
            yield word[i]
            i += 1


def _split_special(text: str, special_tokens: Sequence[str]) -> list[str]:
    """Cut text around special tokens; the longest wins where several start together."""
    if not special_tokens:
        return [text]
    longest_first = sorted(special_tokens, key=len, reverse=True)
    return re.split(f"({'|'.join(map(re.escape, longest_first))})", text)


def _check_special_tokens(special_tokens: Sequence[str]) -> None:
    if short := [token for token in special_tokens if len(token) < 2]:
        raise ValueError(f"special tokens need at least two characters, got {short}")
    if len(set(special_tokens)) != len(special_tokens):
        raise ValueError(f"special tokens must differ, got {list(special_tokens)}")
