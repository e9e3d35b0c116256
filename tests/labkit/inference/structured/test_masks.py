"""A token is allowed exactly if some matching text goes on with it, counted out by brute force."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.inference.constraint import Constraint
from labkit.inference.structured.constraints import regex_constraint, token_trie
from labkit.inference.structured.trie import TokenTrie
from labkit.model.tokenizer import Tokenizer

LONGEST = 5  # characters of any text of PATTERNS


def bounded(parts):
    """Patterns with the length of their longest text."""
    return st.one_of(
        st.tuples(parts, parts).map(lambda p: (p[0][0] + p[1][0], p[0][1] + p[1][1])),
        st.tuples(parts, parts).map(lambda p: (f"({p[0][0]}|{p[1][0]})", max(p[0][1], p[1][1]))),
        st.tuples(parts, st.sampled_from([("?", 1), ("{1,2}", 2), ("{0,3}", 3)])).map(
            lambda p: (f"({p[0][0]}){p[1][0]}", p[0][1] * p[1][1])
        ),
    )


PATTERNS = (
    st.recursive(
        st.sampled_from([("a", 1), ("b", 1), ("é", 1), ("[aé]", 1), ("[^b]", 1), ("abé", 3)]),
        bounded,
        max_leaves=4,
    )
    .filter(lambda found: found[1] <= LONGEST)
    .map(lambda found: found[0])
)


def by_brute_force(tokenizer: Tokenizer, texts: list[bytes], read: bytes) -> list[bool]:
    """Over the vocabulary's own letters: does any matching text begin with what was read and t?"""
    special = tokenizer.special_ids
    allowed = [
        index not in special
        and any(text.startswith(read + tokenizer.token_bytes(index)) for text in texts)
        for index in range(tokenizer.vocab_size)
    ]
    allowed[tokenizer.eos_id] = read in texts
    return allowed


@settings(
    max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(pattern=PATTERNS, choices=st.lists(st.integers(0, 99), min_size=8, max_size=8))
def test_masks_along_a_walk_equal_brute_force(small_tokenizer, language, pattern, choices):
    texts = language(pattern, LONGEST)
    constraint = regex_constraint(small_tokenizer, pattern)
    assert isinstance(constraint, Constraint)
    read = b""
    for number in choices:
        expected = by_brute_force(small_tokenizer, texts, read)
        mask = constraint.allowed()
        assert mask.tolist() == expected
        assert constraint.complete == (read in texts)
        assert constraint.finished == (read in texts and sum(expected) == 1)
        options = mask.nonzero().flatten().tolist()
        token = options[number % len(options)]
        constraint.advance(token)
        if token == small_tokenizer.eos_id:
            assert read in texts
            break
        read += small_tokenizer.token_bytes(token)


def tokens_of(tokenizer: Tokenizer, mask: torch.Tensor) -> set[bytes]:
    return {tokenizer.token_bytes(index) for index in mask.nonzero().flatten().tolist()}


def test_tokens_may_begin_and_end_inside_a_character(small_tokenizer):
    constraint = regex_constraint(small_tokenizer, "aéb")
    assert tokens_of(small_tokenizer, constraint.allowed()) == {b"a", b"a\xc3"}
    constraint.advance(small_tokenizer.backend.token_to_id("aÃ"))
    assert tokens_of(small_tokenizer, constraint.allowed()) == {b"\xa9", b"\xa9b"}


def test_special_tokens_are_never_allowed_though_their_names_match(small_tokenizer):
    special = small_tokenizer.token_id("aa")
    constraint = regex_constraint(small_tokenizer, "a*")
    assert not constraint.allowed()[special]
    with pytest.raises(ValueError, match=f"token {special} may not come"):
        constraint.advance(special)


def test_end_of_sequence_only_where_the_text_is_complete(small_tokenizer):
    eos = small_tokenizer.eos_id
    constraint = regex_constraint(small_tokenizer, "ab?|abab")
    seen = []
    for letter in "abab":
        seen.append(bool(constraint.allowed()[eos]))
        constraint.advance(small_tokenizer.token_id(letter))
    assert seen == [False, True, True, False]
    assert constraint.finished
    constraint.advance(eos)
    assert constraint.finished
    assert constraint.allowed().nonzero().flatten().tolist() == [eos]
    constraint.advance(eos)
    with pytest.raises(ValueError, match="may not come here"):
        constraint.advance(small_tokenizer.token_id("a"))


def test_after_the_end_nothing_follows_even_where_the_text_could_go_on(small_tokenizer):
    constraint = regex_constraint(small_tokenizer, "a*")
    constraint.advance(small_tokenizer.eos_id)
    assert constraint.finished
    assert constraint.allowed().sum() == 1
    with pytest.raises(ValueError, match="may not come here"):
        constraint.advance(small_tokenizer.token_id("a"))


@pytest.mark.parametrize("token", [-1, 10**6])
def test_ids_outside_the_vocabulary_are_refused(small_tokenizer, token):
    with pytest.raises(ValueError, match=f"token {token} may not come"):
        regex_constraint(small_tokenizer, "a*").advance(token)


def test_a_refused_token_changes_nothing(small_tokenizer):
    constraint = regex_constraint(small_tokenizer, "ab")
    with pytest.raises(ValueError, match="may not come here"):
        constraint.advance(small_tokenizer.token_id("b"))
    constraint.advance(small_tokenizer.token_id("a"))
    constraint.advance(small_tokenizer.token_id("b"))
    assert constraint.finished


def test_a_copy_goes_its_own_way(small_tokenizer):
    constraint = regex_constraint(small_tokenizer, "ab|b")
    other = constraint.copy()
    other.advance(small_tokenizer.token_id("b"))
    assert other.finished
    assert not constraint.finished
    assert tokens_of(small_tokenizer, constraint.allowed()) == {b"a", b"b", b"ab"}


def test_a_mask_is_the_callers_own(small_tokenizer):
    constraint = regex_constraint(small_tokenizer, "ab")
    before = constraint.allowed().tolist()
    constraint.allowed().fill_(True)
    assert constraint.allowed().tolist() == before


def test_padding_beyond_the_vocabulary_is_never_allowed(small_tokenizer):
    V = small_tokenizer.vocab_size
    constraint = regex_constraint(small_tokenizer, "[^b]*", vocab_size=V + 13)
    mask = constraint.allowed()
    assert mask.shape == (V + 13,)
    assert torch.equal(mask[:V], regex_constraint(small_tokenizer, "[^b]*").allowed())
    assert not mask[V:].any()
    with pytest.raises(ValueError, match=f"vocab_size={V - 1} is below"):
        regex_constraint(small_tokenizer, "a", vocab_size=V - 1)


def test_no_way_leads_where_the_vocabulary_cannot_spell_on(tokenizer_of):
    poor = tokenizer_of([b"a", b"b", "é".encode(), b"bc"])
    constraint = regex_constraint(poor, "a(é|c|bca|ab)")
    assert tokens_of(poor, constraint.allowed()) == {b"a"}
    constraint.advance(0)
    assert tokens_of(poor, constraint.allowed()) == {"é".encode(), b"bc", b"a"}  # not b alone
    with pytest.raises(ValueError, match="that the tokenizer can spell"):
        regex_constraint(poor, "ac")


def test_the_trie_shares_prefixes_and_holds_every_token():
    trie = TokenTrie([b"ab", None, b"abc", b"b", b"", b"ab"])
    assert trie.num_nodes == 1 + 4 + 1  # root; a, b, ab, abc; the unreachable one
    assert trie.node_of_token.tolist() == [3, 5, 4, 2, 5, 3]
    assert [(level.begin, level.end) for level in trie.levels] == [(1, 3), (3, 4), (4, 5)]
    assert trie.levels[1].parents.tolist() == [1]
    assert bytes(trie.levels[0].bytes) == b"ab"
    assert (trie.longest, trie.spellable) == (3, frozenset(b"b"))


def test_the_trie_is_kept_for_a_tokenizer(small_tokenizer):
    V = small_tokenizer.vocab_size
    assert token_trie(small_tokenizer, V) is token_trie(small_tokenizer, V)
