"""Whatever the tokens, pieces join to the decoded text, are whole characters and hold no stop."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models

from labkit.inference.text import BROKEN, TextAssembler


class ByteTokenizer:
    """One token a byte, the hardest case for streaming; token 256 is special."""

    def __init__(self) -> None:
        from tokenizers.pre_tokenizers import ByteLevel

        alphabet = sorted(ByteLevel.alphabet(), key=ord)
        self.library = Library(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
        self.library.decoder = decoders.ByteLevel()
        self.library.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
        self.library.add_special_tokens(["<eos>"])

    def encode(self, text: str) -> list[int]:
        return self.library.encode(text).ids

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        return self.library.decode(ids, skip_special_tokens=skip_special)


TOKENIZER = ByteTokenizer()


def pieces(ids: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    assembler = TextAssembler(TOKENIZER, stop)
    parts = []
    for token in ids:
        parts.append(assembler.push(token))
        if assembler.stopped:
            return parts, True
    return [*parts, assembler.finish()], assembler.stopped


@given(st.text(max_size=30))
def test_characters_come_whole(text):
    parts, _ = pieces(TOKENIZER.encode(text))
    assert "".join(parts) == text
    assert all(BROKEN not in part for part in parts) or BROKEN in text


@given(st.lists(st.integers(0, 256), max_size=25))
def test_any_bytes_join_to_the_decoded_text(ids):
    parts, _ = pieces(ids)
    assert "".join(parts) == TOKENIZER.decode(ids)


@given(
    st.text("abé😀", max_size=25), st.lists(st.text("abé😀", min_size=1, max_size=4), max_size=3)
)
def test_the_earliest_stop_string_cuts_and_never_shows(text, stops):
    parts, stopped = pieces(TOKENIZER.encode(text), tuple(stops))
    cuts = [text.find(stop) for stop in stops if stop in text]
    # As soon as any stop string is complete the text ends, so one that ends later is never seen.
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    assert stopped == bool(cuts)
    if not cuts:
        assert "".join(parts) == text
        return
    seen = text[: min(ends)]
    expected = seen[: min(seen.find(stop) for stop in stops if stop in seen)]
    assert "".join(parts) == expected


def test_a_stop_string_over_several_tokens_is_held_back():
    parts, stopped = pieces(TOKENIZER.encode("one ENX two END three"), ("END",))
    assert stopped
    assert "".join(parts) == "one ENX two "
    assert parts[4:7] == ["", "", "ENX"]


@given(
    st.text("abc", max_size=14),
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    st.integers(0, 14),
)
def test_a_stop_string_counts_only_if_it_ends_late_enough(text, stops, minimum):
    """`minimum` characters come before any end; a stop may begin among them."""
    assembler, shown = TextAssembler(TOKENIZER, tuple(stops)), ""
    for number, token in enumerate(TOKENIZER.encode(text), start=1):
        shown += assembler.push(token, may_stop=number > minimum)
        if assembler.stopped:
            break
    ends = [
        (end, start)
        for stop in stops
        for start in range(len(text))
        if text.startswith(stop, start) and (end := start + len(stop)) > minimum
    ]
    assert assembler.stopped == bool(ends)
    if not ends:
        assert shown + assembler.finish() == text
        return
    first = min(ends)[0]
    assert shown == text[: min(start for end, start in ends if end == first)]


def test_what_looked_like_a_stop_is_given_out_at_the_end():
    parts, stopped = pieces(TOKENIZER.encode("x EN"), ("END",))
    assert not stopped
    assert parts[-1] == "EN"


def test_an_unfinished_character_shows_as_replacement_at_the_end():
    parts, _ = pieces(TOKENIZER.encode("a😀")[:-1])
    assert parts == ["a", "", "", "", BROKEN]


def test_special_tokens_leave_no_text():
    assert "".join(pieces([TOKENIZER.encode("a")[0], 256])[0]) == "a"


@pytest.mark.parametrize("length", [200, 400])
def test_each_token_decodes_few_tokens(length):
    class Counting(ByteTokenizer):
        most = 0

        def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
            self.most = max(self.most, len(ids))
            return super().decode(ids, skip_special=skip_special)

    tokenizer = Counting()
    assembler = TextAssembler(tokenizer)
    for token in tokenizer.encode("é" * length):
        assembler.push(token)
    assert tokenizer.most <= 4
