"""The block manager against a naive model that keeps every token of every sequence."""

import random
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from labkit.inference.paging import BlockManager, OutOfPagesError

PAGES, SIZE = 11, 3


class NaiveCold:
    """Copies of the naive model's pages; the oldest goes first, and some cannot be read again."""

    def __init__(self, pages: list[list[Any]], capacity: int) -> None:
        self.pages, self.capacity = pages, capacity
        self.kept: OrderedDict[bytes, list[Any]] = OrderedDict()
        self.unreadable: set[bytes] = set()
        self.loads = 0

    def store(self, digest: bytes, page: int) -> None:
        assert None not in self.pages[page]  # only full pages can be found again
        assert self.kept.get(digest, self.pages[page]) == self.pages[page]
        self.kept[digest] = list(self.pages[page])
        self.kept.move_to_end(digest)
        if len(self.kept) > self.capacity:
            self.kept.popitem(last=False)

    def touch(self, digest: bytes) -> bool:
        if digest in self.kept:
            self.kept.move_to_end(digest)
        return digest in self.kept

    def load(self, digest: bytes, page: int) -> bool:
        content = self.kept.pop(digest, None)
        if content is None or digest in self.unreadable:
            return False
        self.pages[page] = content
        self.loads += 1
        return True

    def check_integrity(self) -> None:
        assert len(self.kept) <= self.capacity


class Naive:
    """Pages as lists of (salt, token), sequences as the tokens written; nothing is ever shared."""

    def __init__(
        self, *, prefix_cache: bool = True, pages: int = PAGES, size: int = SIZE, cold: int = 0
    ) -> None:
        self.pages: list[list[Any]] = [[None] * size for _ in range(pages)]
        self.cold = NaiveCold(self.pages, cold)
        self.blocks = BlockManager(
            pages, size, prefix_cache=prefix_cache, cold=self.cold if cold else None
        )
        self.size = size
        self.tokens: dict[int, list[int]] = {}  # whole sequences
        self.written: dict[int, int] = {}
        self.salts: dict[int, bytes] = {}
        self.next = 0

    def begin(self, tokens: list[int], salt: bytes = b"") -> int:
        key, self.next = self.next, self.next + 1
        self.tokens[key], self.salts[key] = list(tokens), salt
        self.written[key] = self.blocks.begin(key, tokens, salt=salt)
        assert self.written[key] < len(tokens)
        return key

    def write(self, key: int, length: int) -> bool:
        """Reserve and write tokens up to `length`; whether there was room."""
        try:
            copies = self.blocks.reserve(key, length)
        except OutOfPagesError:
            return False
        for copy in copies:
            self.pages[copy.to] = list(self.pages[copy.source])
        table = self.blocks.table(key)
        for position in range(self.written[key], length):
            content = (self.salts[key], self.tokens[key][position])
            self.pages[table[position // self.size]][position % self.size] = content
        self.blocks.fill(key, self.tokens[key], length)
        self.written[key] = length
        return True

    def fork(self, parent: int) -> int:
        key, self.next = self.next, self.next + 1
        self.blocks.fork(parent, key)
        self.tokens[key], self.salts[key] = list(self.tokens[parent]), self.salts[parent]
        self.written[key] = self.written[parent]
        return key

    def truncate(self, key: int, length: int) -> None:
        self.blocks.truncate(key, length)
        self.written[key] = length
        del self.tokens[key][length:]

    def end(self, key: int) -> None:
        self.blocks.end(key)
        del self.tokens[key], self.written[key], self.salts[key]

    def check(self) -> None:
        """Every sequence still reads its own tokens, whatever the others have done."""
        self.blocks.check_integrity()
        for key, tokens in self.tokens.items():
            table = self.blocks.table(key)
            for position in range(self.written[key]):
                held = self.pages[table[position // self.size]][position % self.size]
                assert held == (self.salts[key], tokens[position]), (key, position)
        if not self.tokens:
            assert self.blocks.free_pages == self.blocks.num_pages


class Machine(RuleBasedStateMachine):
    cold = 0

    def __init__(self) -> None:
        super().__init__()
        self.naive = Naive(cold=self.cold)

    def key(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.naive.tokens)))

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=14), salt=st.booleans())
    def begin(self, tokens: list[int], salt: bool) -> None:
        self.naive.begin(tokens, b"adapter" * salt)

    @precondition(lambda self: self.naive.tokens)
    @rule(data=st.data(), more=st.integers(1, 7), new=st.integers(0, 1))
    def write(self, data: st.DataObject, more: int, new: int) -> None:
        key = self.key(data)
        length = self.naive.written[key] + more
        tokens = self.naive.tokens[key]
        tokens += [new] * (length - len(tokens))
        self.naive.write(key, length)

    @precondition(lambda self: self.naive.tokens)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        self.naive.fork(self.key(data))

    @precondition(lambda self: self.naive.tokens)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        key = self.key(data)
        self.naive.truncate(key, data.draw(st.integers(0, self.naive.written[key])))

    @precondition(lambda self: self.naive.tokens)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.naive.end(self.key(data))

    @invariant()
    def holds(self) -> None:
        self.naive.check()


class ColdMachine(Machine):
    cold = 5

    @precondition(lambda self: self.naive.cold.kept)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        kept = sorted(self.naive.cold.kept)
        self.naive.cold.unreadable ^= {data.draw(st.sampled_from(kept))}


TestMachine, TestColdMachine = Machine.TestCase, ColdMachine.TestCase
for case in (TestMachine, TestColdMachine):
    case.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize(("prefix_cache", "cold"), [(True, 0), (True, 9), (False, 0)])
def test_ten_thousand_random_operations_leak_nothing(prefix_cache: bool, cold: int) -> None:
    rng, naive = random.Random(3), Naive(prefix_cache=prefix_cache, pages=23, size=4, cold=cold)
    refused = 0
    for step in range(10_000):
        keys = sorted(naive.tokens)
        act = rng.choice(["begin", "write", "write", "write", "fork", "truncate", "end"])
        if act == "begin" or not keys:
            naive.begin([rng.randrange(2) for _ in range(rng.randint(1, 30))])
        elif act == "write":
            key = rng.choice(keys)
            length = naive.written[key] + rng.randint(1, 9)
            naive.tokens[key] += [rng.randrange(2)] * (length - len(naive.tokens[key]))
            refused += not naive.write(key, length)
        elif act == "fork":
            naive.fork(rng.choice(keys))
        elif act == "truncate":
            key = rng.choice(keys)
            naive.truncate(key, rng.randint(0, naive.written[key]))
        if act == "end" or len(naive.tokens) > 8:
            naive.end(rng.choice(sorted(naive.tokens)))
        if step % 5 == 0:
            naive.check()
    assert 0 < refused < 5_000  # pages did run out, and were given back
    assert (naive.cold.loads > 100) == (cold > 0)
    for key in list(naive.tokens):
        naive.end(key)
    naive.check()


def filled(naive: Naive, tokens: list[int]) -> int:
    key = naive.begin(tokens)
    assert naive.write(key, len(tokens))
    return key


def test_a_common_prefix_is_computed_once_and_whole_pages_of_it_are_shared() -> None:
    naive = Naive()
    first = filled(naive, [1, 2, 3, 4, 5, 6, 7])
    second = naive.begin([1, 2, 3, 4, 5, 6, 8, 9])
    assert naive.written[second] == 6
    assert naive.blocks.table(second) == naive.blocks.table(first)[:2]
    assert naive.blocks.used_pages == 3


def test_the_last_token_is_always_left_to_compute() -> None:
    naive = Naive()
    filled(naive, [1, 2, 3, 4, 5, 6])
    assert naive.written[naive.begin([1, 2, 3, 4, 5, 6])] == 3
    assert naive.written[naive.begin([1, 2, 3])] == 0


def test_pages_are_found_by_all_that_stands_before_them() -> None:
    naive = Naive()
    filled(naive, [1, 2, 3, 4, 5, 6, 7])
    assert naive.written[naive.begin([9, 2, 3, 4, 5, 6, 7])] == 0  # 4 5 6 comes after another page


def test_another_adapter_finds_nothing() -> None:
    naive = Naive()
    filled(naive, [1, 2, 3, 4])
    assert naive.written[naive.begin([1, 2, 3, 4], b"other")] == 0


def test_pages_outlive_their_sequence_until_they_are_needed() -> None:
    naive = Naive(pages=4)
    naive.end(filled(naive, [1, 2, 3, 4, 5, 6, 7]))
    assert naive.blocks.free_pages == 4
    again = naive.begin([1, 2, 3, 4, 5, 6, 7])
    assert naive.written[again] == 6
    naive.end(again)
    naive.end(filled(naive, [9] * 12))  # takes all four
    assert naive.written[naive.begin([1, 2, 3, 4, 5, 6, 7])] == 0


def test_the_tail_is_evicted_before_the_prefix() -> None:
    naive = Naive(pages=4)
    naive.end(filled(naive, [1, 2, 3, 4, 5, 6, 7]))  # pages 123 and 456 stay, 7's is free
    naive.end(filled(naive, [8] * 8))  # takes two free pages and one cached
    assert naive.written[naive.begin([1, 2, 3, 4, 5, 6, 7])] == 3


def test_a_page_that_was_given_away_comes_back_from_the_cold_ones() -> None:
    naive = Naive(pages=4, cold=4)
    naive.end(filled(naive, [1, 2, 3, 4, 5, 6, 7]))
    naive.end(filled(naive, [9] * 12))  # takes all four
    assert len(naive.cold.kept) == 2
    again = naive.begin([1, 2, 3, 4, 5, 6, 7])
    assert (naive.written[again], naive.cold.loads) == (6, 2)
    naive.check()
    assert naive.blocks.begin(-1, [1, 2, 3, 4, 5, 6, 7]) == 6  # shared: it is loaded once
    assert naive.cold.loads == 2


def test_no_page_is_taken_from_a_sequence_to_load_a_cold_one() -> None:
    naive = Naive(pages=3, cold=4)
    naive.end(filled(naive, [1, 2, 3, 4, 5, 6, 7]))
    key = filled(naive, [9] * 9)
    assert naive.written[naive.begin([1, 2, 3, 4, 5, 6, 7])] == 0
    naive.end(key)
    assert naive.written[naive.begin([1, 2, 3, 4, 5, 6, 7])] == 6
    naive.check()


def test_a_cold_page_that_cannot_be_read_ends_the_prefix_and_leaks_nothing() -> None:
    naive = Naive(pages=4, cold=8)
    naive.end(filled(naive, [1, 2, 3, 4, 5, 6, 7]))
    naive.end(filled(naive, [9] * 12))
    naive.cold.unreadable = set(list(naive.cold.kept)[:1])  # the tail's, which went first
    assert naive.written[naive.begin([1, 2, 3, 4, 5, 6, 7])] == 3
    naive.cold.unreadable = set(naive.cold.kept)
    naive.end(filled(naive, [8] * 7))
    naive.check()


def test_a_prefix_that_is_asked_for_is_not_pushed_out_by_what_makes_room_for_it() -> None:
    naive = Naive(pages=4, cold=8)
    for token in (1, 7, 9):  # the cold pages are full, those of 1 the oldest
        naive.end(filled(naive, [token] * 12))
    assert naive.written[naive.begin([1] * 13)] == 12
    assert naive.cold.loads == 4
    naive.check()


def test_making_room_may_push_out_the_very_page_that_was_asked_for() -> None:
    naive = Naive(pages=2, cold=1)
    naive.end(filled(naive, [1, 2, 3, 4]))
    naive.end(filled(naive, [5, 6, 7, 8, 9, 9]))  # 1 2 3 is cold now
    assert naive.written[naive.begin([1, 2, 3, 4])] == 0
    naive.check()


def test_a_fork_copies_only_the_page_it_writes_into() -> None:
    naive = Naive()
    parent = filled(naive, [1, 2, 3, 4])
    child = naive.fork(parent)
    assert naive.blocks.used_pages == 2
    naive.tokens[child].append(5)
    copies = naive.blocks.reserve(child, 5)
    assert [copy.source for copy in copies] == [naive.blocks.table(parent)[1]]
    assert naive.blocks.used_pages == 3
    assert naive.blocks.reserve(parent, 5) == []  # it is alone on its page again


def test_running_out_changes_nothing() -> None:
    naive = Naive(pages=3)
    key = filled(naive, [1, 2, 3, 4])
    before = list(naive.blocks.table(key))
    with pytest.raises(OutOfPagesError, match="2 pages wanted, 1 of 3 free"):
        naive.blocks.reserve(key, 12)
    assert naive.blocks.table(key) == before
    naive.check()


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="num_pages=0"):
        BlockManager(0, 4)
    naive = Naive()
    key = filled(naive, [1, 2])
    with pytest.raises(ValueError, match="has a table already"):
        naive.blocks.begin(key, [1])
    with pytest.raises(ValueError, match="has a table already"):
        naive.blocks.fork(key, key)
    with pytest.raises(ValueError, match=r"length=3 must lie in \[0, 2\]"):
        naive.blocks.truncate(key, 3)
