"""Runs of tokens: how long, of which lab, in which words."""

import pytest

from grader.release.overlap import LONG_RUN, Answer, Answers, tokens, without_comments


def test_a_long_run_is_asked_for_where_lectures_teach() -> None:
    words = " ".join(f"name{i}" for i in range(30))
    answers = Answers([Answer(lab="lab", cell="cell", text=words)])
    part = " ".join(words.split()[: LONG_RUN - 1])
    assert answers.repeated_in(part)
    assert not answers.repeated_in(part, length=LONG_RUN)
    assert answers.repeated_in(words, length=LONG_RUN)


@pytest.mark.parametrize(("text", "names"), [("x = y(z + 1)", 3), ("x = y(x + 1)", 2)])
def test_another_labs_phrase_needs_three_names(text: str, names: int) -> None:
    answers = Answers([Answer(lab="one", cell="cell", text=text)])
    assert len(tokens(text)) == 8
    assert (
        answers.repeated_in(text, lab="one")
        == f"the solution of one/cell: {' '.join(tokens(text))}"
    )
    assert bool(answers.repeated_in(text, lab="two")) is (names == 3)


def test_text_that_is_no_python_stays_as_it_is() -> None:
    assert without_comments("x = 1  # one\n") == "x = 1"
    assert without_comments("it's (open") == "it's (open"
