"""Tokens are the same under what a copier changes, and any text has some."""

from hypothesis import given
from hypothesis import strategies as st

from grader.python_tokens import normalised, without_comments


def texts(code: str) -> list[str]:
    return [token.text for token in normalised(code)]


def test_names_literals_comments_layout_imports_and_docstrings_do_not_count() -> None:
    one = """
import os, \\
    sys
from a import (b,
    c)
def f(a, b):
    \'\'\'Say
    what.\'\'\'
    return a.sum(0) + b * 2.5 + len("x")  # why
"""
    two = "def g(x,\n   y):\n  'Why.'\n  return x.sum(12) + y * 1e-3 + len(f'{z}')"
    assert texts(one) == texts(two)
    assert texts("x.sum(0)") != texts("x.mean(0)")
    assert texts("len(x)") != texts("max(x)")
    assert texts("f('x')") != texts("f(x)")


def test_a_string_left_open_ends_with_its_line() -> None:
    assert texts("x = 'open\ny = 1") == texts("x = 'shut'\ny = 1")


def test_attributes_the_answer_defines_are_its_own_names() -> None:
    one = "def helper(s): s.width = 1\nq.helper(q.width, q.shape)"
    two = "def other(me): me.depth = 2\nz.other(z.depth, z.shape)"
    assert texts(one) == texts(two)
    assert "shape" in texts(one)


@given(st.text(alphabet="ab\"'#\\\n ([{}]).;=1defimport", max_size=200))
def test_any_text_has_tokens_in_order(text: str) -> None:
    tokens = normalised(text)
    edges = [edge for token in tokens for edge in (token.start, token.end)]
    assert edges == sorted(edges)
    assert all(token.start < token.end for token in tokens)
    assert len(without_comments(text)) == len(text)
