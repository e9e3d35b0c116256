"""BPE against the `tokenizers` library and a brute-force trainer, then its properties."""

import pydoc_data.topics
import unicodedata
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from labkit.data.bpe import BPE, train_bpe
from labkit.data.words import split_words

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|im_end|>x")
TOPICS = [text for _, text in sorted(pydoc_data.topics.topics.items())]


@pytest.fixture(scope="module")
def bpe() -> BPE:
    return train_bpe(TOPICS[:15], vocab_size=700, special_tokens=SPECIAL)


@pytest.fixture(scope="module")
def library(bpe: BPE) -> Tokenizer:
    return bpe.to_tokenizers()


def library_trainer(texts: list[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def brute_force_merges(texts: list[str], count: int) -> list[tuple[bytes, bytes]]:
    """Recount everything after every merge."""
    ids = dict(BPE(())._ids)
    words = [[bytes([b]) for b in word.encode()] for text in texts for word in split_words(text)]
    merges: list[tuple[bytes, bytes]] = []
    while len(ids) < 256 + count:
        pairs = Counter(pair for word in words for pair in pairwise(word))
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], ids[pair[0]], ids[pair[1]]))
        merges.append(best)
        ids.setdefault(best[0] + best[1], len(ids))
        for word in words:
            i = 0
            while i + 1 < len(word):
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [best[0] + best[1]]
                i += 1
    return merges


def assigned(text: str) -> bool:
    return all(unicodedata.category(character) != "Cn" for character in text)


readable = st.text(
    st.one_of(
        st.sampled_from("aab  \n\t'sdtlmrev0129²½é中文_-=\u2028\x1c\x85"),
        st.characters(exclude_categories=["Cs", "Cn"]),
    )
)


def test_merges_equal_the_librarys_trainer_on_real_text() -> None:
    ours = train_bpe(TOPICS, vocab_size=1500)
    theirs = library_trainer(TOPICS, 1500)
    assert ours.to_tokenizers().get_vocab() == theirs.get_vocab()
    assert ours.encode(TOPICS[3]) == theirs.encode(TOPICS[3]).ids


@settings(max_examples=60, deadline=None)
@given(st.lists(readable, max_size=6))
def test_merges_equal_brute_force(texts: list[str]) -> None:
    assert list(train_bpe(texts, vocab_size=256 + 13).merges) == brute_force_merges(texts, 13)


@settings(max_examples=300, deadline=None)
@given(readable)
def test_words_equal_the_librarys(text: str) -> None:
    theirs = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    assert split_words(text) == [text[start:end] for _, (start, end) in theirs]


@settings(max_examples=200, deadline=None)
@given(text=readable)
def test_encoding_equals_the_librarys(bpe: BPE, library: Tokenizer, text: str) -> None:
    assert bpe.encode(text) == library.encode(text).ids


@settings(max_examples=200, deadline=None)
@given(data=st.binary())
def test_any_bytes_survive_the_round_trip(bpe: BPE, data: bytes) -> None:
    ids = bpe.encode_bytes(data)
    assert bpe.decode_bytes(ids) == data
    assert min(ids, default=len(SPECIAL)) >= len(SPECIAL)


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(st.one_of(st.text(), st.sampled_from(SPECIAL))))
def test_any_text_survives_the_round_trip(bpe: BPE, library: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    ids = bpe.encode(text)
    assert bpe.decode(ids) == text
    if assigned(text):
        assert ids == library.encode(text).ids


def test_special_tokens_are_whole_and_split_their_context(bpe: BPE) -> None:
    assert bpe.encode("<|im_start|>a<|im_end|>xb") == [0, *bpe.encode("a"), 2, *bpe.encode("b")]
    trained = train_bpe(["ab<|im_end|>" * 9], vocab_size=270, special_tokens=SPECIAL)
    assert trained.merges == ((b"a", b"b"),)


def test_the_library_object_survives_saving(bpe: BPE) -> None:
    copy = Tokenizer.from_str(bpe.to_tokenizers().to_str())
    text = "<|im_start|>def encode(self):\n    return 'naïve'<|im_end|>\n"
    assert copy.encode(text).ids == bpe.encode(text)
    assert copy.decode(bpe.encode(text), skip_special_tokens=False) == text


def test_a_long_run_is_encoded_in_little_time(bpe: BPE) -> None:
    assert bpe.decode(bpe.encode("-" * 100_000)) == "-" * 100_000


def test_equal_strings_from_different_pairs_share_one_token() -> None:
    bpe = BPE([(b"a", b"a"), (b"aa", b"a"), (b"a", b"aa")])
    assert bpe.vocab_size == 258
    assert bpe.encode("aaaaa") == bpe.to_tokenizers().encode("aaaaa").ids


@pytest.mark.parametrize(
    ("special", "vocab_size", "message"),
    [((), 255, "at least 256"), (("<a>", "<a>"), 300, "differ"), (("a",), 300, "two characters")],
)
def test_bad_values_are_refused(special: tuple[str, ...], vocab_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_bpe(["text"], vocab_size=vocab_size, special_tokens=special)


def test_one_string_is_no_list_of_texts() -> None:
    with pytest.raises(ValueError, match="one string"):
        train_bpe("some text", vocab_size=300)


def test_unknown_ids_and_merges_are_refused(bpe: BPE) -> None:
    with pytest.raises(ValueError, match="id 9999"):
        bpe.decode([3, 9999])
    with pytest.raises(ValueError, match="merge 0 joins b'ab'"):
        BPE([(b"ab", b"c")])
