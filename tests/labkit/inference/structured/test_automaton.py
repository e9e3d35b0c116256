"""Shortest ways to the end, nesting, and grammars that have no text."""

import itertools
import json
import math
import re
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.inference.structured import network
from labkit.inference.structured.automaton import DEAD, START, Automaton
from labkit.inference.structured.diagram import diagram
from labkit.inference.structured.expression import (
    Call,
    Characters,
    Choice,
    Grammar,
    Repeat,
    Text,
    choice,
    concat,
    optional,
)
from labkit.inference.structured.regex import parse_regex

PATTERNS = st.recursive(
    st.sampled_from(["a", "b", "[ab]", "aab"]),
    lambda parts: st.one_of(
        st.tuples(parts, parts).map("".join),
        st.tuples(parts, parts).map(lambda two: f"({two[0]}|{two[1]})"),
        st.tuples(parts, st.sampled_from("?*+")).map(lambda two: f"({two[0]}){two[1]}"),
    ),
    max_leaves=5,
)


def of(pattern: str) -> Automaton:
    return Automaton(Grammar({"text": parse_regex(pattern)}, "text"))


def over_ab(longest: int) -> list[str]:
    lengths = range(longest + 1)
    return ["".join(t) for n in lengths for t in itertools.product("ab", repeat=n)]


@settings(max_examples=60, deadline=None)
@given(PATTERNS)
def test_distance_is_the_length_of_the_shortest_completion(pattern):
    automaton = of(pattern)
    matched = [text for text in over_ab(8) if re.fullmatch(pattern, text)]
    for prefix in over_ab(3):
        rest = [len(text) - len(prefix) for text in matched if text.startswith(prefix)]
        state = automaton.read(prefix.encode())
        if rest:
            assert automaton.distance[state] == min(rest)
        else:
            assert automaton.distance[state] > 8 - len(prefix)


def test_distance_counts_only_bytes_that_can_be_spelt():
    grammar = Grammar({"text": parse_regex("a(b|cd|ef?)")}, "text")
    automaton = Automaton(grammar, frozenset(b"acd"))
    assert automaton.distance[START] == 3
    assert automaton.distance[automaton.read(b"ac")] == 1
    assert automaton.accepting(automaton.read(b"ab"))  # some longer token may have the b
    with pytest.raises(ValueError, match="no finite text"):
        Automaton(grammar, frozenset(b"bcd"))


def nested() -> Grammar:
    inner = Repeat(Call("value"), 0, None)
    rules = {"value": choice(Text("x"), concat(Text("("), inner, Text(")")), Text("()y"))}
    return Grammar(rules, "value")


def test_brackets_nest_without_bound_and_know_their_depth():
    automaton = Automaton(nested())
    for depth in (1, 7, 300):
        state = automaton.read(b"(" * depth)
        assert automaton.distance[state] == depth
        assert automaton.accepting(automaton.read(b"x" + b")" * depth, state))
        assert automaton.read(b")" * depth + b")", state) == DEAD
    assert automaton.accepting(automaton.read(b"()y"))
    assert not automaton.accepting(automaton.read(b"((x)"))


def test_a_call_costs_its_rule_and_what_comes_after():
    rules = {
        "text": concat(Text("a"), Call("two"), Call("one"), Text("ef")),
        "two": choice(concat(Text("xy"), Call("one")), Text("wxyz")),
        "one": Text("z"),
    }
    automaton = Automaton(Grammar(rules, "text"))
    assert automaton.distance[START] == 1 + 3 + 1 + 2
    assert automaton.distance[automaton.read(b"axy")] == 1 + 1 + 2
    assert automaton.distance[automaton.read(b"aw")] == 3 + 1 + 2


def test_a_state_is_met_again_after_other_brackets_have_closed():
    automaton = Automaton(nested())
    assert automaton.read(b"((x") == automaton.read(b"(x(()x(x)x")
    before = len(automaton)
    automaton.read(b"(x(x)xx(xx)(x)x)")
    assert len(automaton) <= before + 5


def test_a_rule_without_a_finite_text_is_never_entered():
    endless = concat(Text("["), Call("endless"), Text("]"))
    grammar = Grammar({"text": choice(Text("ok"), Call("endless")), "endless": endless}, "text")
    automaton = Automaton(grammar)
    assert automaton.distance[START] == 2
    assert math.isinf(automaton.distance[automaton.read(b"[")])
    with pytest.raises(ValueError, match="no finite text"):
        Automaton(Grammar({"endless": endless}, "endless"))
    with pytest.raises(ValueError, match="no finite text"):
        Automaton(Grammar({"text": Choice(())}, "text"))


@pytest.mark.parametrize(
    "rules",
    [
        {"a": choice(Text("x"), Call("a"))},
        {"a": concat(Call("b"), Text("x")), "b": choice(Text("y"), Call("a"))},
        {"a": concat(optional(Text("x")), Call("a"))},
        {"a": concat(Call("b"), Call("a")), "b": optional(Text("x"))},
        {"a": Repeat(Call("a"), 0, None)},
    ],
)
def test_rules_that_call_themselves_before_reading_are_refused(rules):
    with pytest.raises(ValueError, match="refers to itself before any text"):
        Automaton(Grammar(rules, "a"))


def test_unknown_rules_and_too_many_states_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="'b' is called and not defined"):
        Automaton(Grammar({"a": Call("b")}, "a"))
    monkeypatch.setattr(network, "MAX_STATES", 1000)
    with pytest.raises(ValueError, match="more than 1000 states"):
        of("(abcdefghij){999}")


def test_an_empty_class_matches_nothing():
    grammar = Grammar({"text": concat(Text("a"), optional(Characters(())))}, "text")
    automaton = Automaton(grammar)
    assert automaton.accepting(automaton.read(b"a"))
    assert not automaton.row(automaton.read(b"a")).any()


def test_threads_may_share_an_automaton():
    texts = [json.dumps({"k": "vwxyz"[n % 5] * n})[:n].encode() for n in range(40)]
    shared = of("[^x]{1,20}y?|[^y]*")
    found: dict[int, int] = {}

    def read(number: int) -> None:
        for index in range(number, len(texts), 4):
            found[index] = shared.read(texts[index])

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[index] for index in range(len(texts))] == [shared.read(text) for text in texts]
    assert [shared.accepting(found[index]) for index in range(len(texts))] == [
        bool(re.fullmatch("[^x]{1,20}y?|[^y]*", text.decode())) for text in texts
    ]


def test_diagram_is_the_minimal_automaton():
    drawn = diagram(of("(a|b)*abb"))
    names = sorted({edge.source for edge in drawn.edges})
    assert len(names) == 4  # the textbook's
    assert len(drawn.accepting) == 1
    assert drawn.whole
    assert {(edge.label) for edge in drawn.edges} == {"a", "b"}
    assert len(drawn.edges) == 8


def test_diagram_labels_bytes_as_a_class():
    drawn = diagram(of("[a-c_0-9]é"))
    labels = [edge.label for edge in drawn.edges]
    assert labels == ["0-9_a-c", "\\xc3", "\\xa9"]
    assert drawn.start == drawn.edges[0].source


def test_diagram_of_an_endless_automaton_stops():
    drawn = diagram(Automaton(nested()), max_states=10)
    assert not drawn.whole
    assert len({edge.source for edge in drawn.edges} | {edge.target for edge in drawn.edges}) <= 10


@settings(max_examples=30, deadline=None)
@given(PATTERNS)
def test_the_merged_diagram_accepts_the_same_texts(pattern):
    automaton = of(pattern)
    drawn = diagram(automaton)
    steps = {
        (edge.source, byte): edge.target
        for edge in drawn.edges
        for low, high in edge.ranges
        for byte in range(low, high + 1)
    }
    for text in over_ab(5):
        state = drawn.start
        for byte in text.encode():
            state = steps.get((state, byte), -1)
        assert (state in drawn.accepting) == bool(re.fullmatch(pattern, text))
