"""The parsed subset matches what Python's `re` matches, byte for byte."""

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from labkit.inference.structured.automaton import Automaton
from labkit.inference.structured.expression import Expression, Grammar
from labkit.inference.structured.regex import parse_regex, parse_search

ATOMS = [
    *["a", "b", "c", "-", "/", '"', "é", "😀", r"\.", r"\\", r"\xe9", r"\u20ac", r"\n", r"\t"],
    *[".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", "[ab]", "[^a]", "[a-c]", r"[\d_]", r"[^\w\n]"],
    *["[é-ü]", r"[^\x00-\u07ff]", r"[a\-c]", "[a-]", "[-a]", r"[\]^]", r"[\x00-\uffff]", "()", "]"],
]
QUANTIFIERS = ["", "?", "*", "+", "{2}", "{1,}", "{0,2}", "{1,3}", "*?", "??", "{2,3}?"]
PATTERNS = st.recursive(
    st.tuples(st.sampled_from(ATOMS), st.sampled_from(QUANTIFIERS)).map("".join),
    lambda parts: st.one_of(
        st.lists(parts, max_size=3).map("".join),
        st.lists(parts, min_size=1, max_size=3).map(lambda found: f"({'|'.join(found)})"),
        st.tuples(parts, st.sampled_from(QUANTIFIERS)).map(lambda two: f"(?:{two[0]}){two[1]}"),
    ),
    max_leaves=6,
)
TEXTS = st.text(alphabet='abc1_ -/."\n\té€üß😀', max_size=6)


def accepts(expression: Expression, text: str) -> bool:
    automaton = Automaton(Grammar({"text": expression}, "text"))
    return automaton.accepting(automaton.read(text.encode()))


@pytest.mark.parametrize("atom", ATOMS)
def test_each_atom_matches_the_characters_that_re_says(atom):
    expression = parse_regex(atom)
    automaton = Automaton(Grammar({"text": expression}, "text"))
    for one in '\x00\t\n\v\r\x1c /0189:ABZ[\\]^_`abcz-."é\xa0üÿ߿ࠀ€\u2028😀':
        found = automaton.accepting(automaton.read(one.encode()))
        assert found == bool(re.fullmatch(atom, one, re.ASCII)), one


@settings(max_examples=60, deadline=None)
@given(PATTERNS, TEXTS)
def test_any_text_is_judged_as_re_judges_it(pattern, text):
    assert accepts(parse_regex(pattern), text) == bool(re.fullmatch(pattern, text, re.ASCII))


@settings(max_examples=60, deadline=None)
@given(PATTERNS, st.data())
def test_texts_that_re_matches_are_accepted(pattern, data):
    text = data.draw(st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True))
    assume(not re.search("[\ud800-\udfff]", text))
    assert accepts(parse_regex(pattern), text)
    assert accepts(parse_search(pattern), f"x{text}y")


@settings(max_examples=60, deadline=None)
@given(PATTERNS, st.sampled_from(["", "^"]), st.sampled_from(["", "$"]), PATTERNS, TEXTS)
def test_search_is_anchored_at_the_anchors_only(one, start, end, other, text):
    ours = accepts(parse_search(f"{start}{one}|{other}{end}"), text)
    oracle = rf"{start}{one}|{other}{end and chr(92) + 'Z'}"  # re's own $ skips a last newline
    assert ours == bool(re.search(oracle, text, re.ASCII))


@pytest.mark.parametrize("data", [b"\xff", b"\xc3", b"\xc3\xa9\xa9", b"\xed\xa0\x80", b"\xc1\xa1"])
def test_bytes_that_are_no_text_never_match(data):
    automaton = Automaton(Grammar({"text": parse_regex("(.|\\n)*")}, "text"))
    assert not automaton.accepting(automaton.read(data))


def test_anchors_and_alternatives_of_the_whole_pattern():
    assert accepts(parse_regex("^a$|^b"), "a")
    assert accepts(parse_regex("^a$|^b"), "b")
    assert not accepts(parse_regex("^a|b$"), "ab")
    assert accepts(parse_search("^a|b$"), "ab")
    assert accepts(parse_regex(""), "")
    assert accepts(parse_regex("a{2}\\{2\\}"), "aa{2}")


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(?=a)b", "group other than"),
        ("(?<!a)b", "group other than"),
        ("(?i:a)", "group other than"),
        ("(?P<x>a)", "group other than"),
        (r"(a)\1", r"\\1 is not supported"),
        (r"\bword", r"\\b is not supported"),
        (r"\p{L}", r"\\p is not supported"),
        ("a$b", "anchor inside"),
        ("a^b", "anchor inside"),
        ("(a$)", "anchor inside"),
        ("a++", "quantifier on a quantifier"),
        ("a**", "quantifier on a quantifier"),
        ("*a", "nothing to repeat"),
        ("a|*", "nothing to repeat"),
        ("a{", "without its number"),
        ("a{,3}", "without its number"),
        ("a{3,2}", "malformed"),
        ("a{3", "malformed"),
        ("(a", "not closed"),
        ("a)", "unmatched"),
        ("[a", "ends too early"),
        ("a\\", "ends too early"),
        ("[]a]", "empty class"),
        ("[[a]", "must be escaped"),
        ("[a&&b]", "must be escaped"),
        ("[b-a]", "malformed range"),
        (r"[\d-z]", "malformed range"),
        (r"[a-\d]", "malformed range"),
        (r"\u12", "hexadecimal"),
        (r"\xg0", "hexadecimal"),
        (r"\ud800", "surrogate"),
        ("(" * 51 + ")" * 51, "nest deeper"),
    ],
)
def test_what_is_not_in_the_subset_is_refused_by_name(pattern, reason):
    with pytest.raises(ValueError, match=reason):
        parse_regex(pattern)
