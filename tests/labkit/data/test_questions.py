"""Questions from documentation: right answers, fair distractors, uniform places."""

import numpy as np
import pytest

from labkit.data import pydoc_corpus
from labkit.data.doc_text import normalised
from labkit.data.pydoc_corpus import FunctionDoc
from labkit.data.questions import Item, multiple_choice, question_answers


@pytest.fixture(scope="module")
def held_out() -> list[FunctionDoc]:
    return pydoc_corpus.split(pydoc_corpus.functions())[1]


def named(name: str, summary: str) -> FunctionDoc:
    return FunctionDoc(name=name, signature=f"{name}()", summary=summary, text=summary)


def test_answers_are_the_summaries_and_wordings_vary(held_out: list[FunctionDoc]) -> None:
    chats = question_answers(held_out)
    for function, (question, answer) in zip(held_out, chats, strict=True):
        assert (question["role"], answer["role"]) == ("user", "assistant")
        assert f"`{function.name}`" in question["content"]
        assert answer["content"] == function.summary
    wordings = {
        question["content"].replace(function.name, "")
        for function, (question, _) in zip(held_out, chats, strict=True)
    }
    assert len(wordings) == 5


def test_wordings_of_one_function_differ_and_are_stable(held_out: list[FunctionDoc]) -> None:
    chats = question_answers(held_out[:3], phrasings=5)
    assert len({chat[0]["content"] for chat in chats}) == 15
    assert chats[5 * 2] == question_answers(held_out[2:3])[0]
    with pytest.raises(ValueError, match="phrasings=6"):
        question_answers(held_out, phrasings=6)


def test_items_are_fair(held_out: list[FunctionDoc]) -> None:
    summaries = {f"What does `{f.name}` do?": f.summary for f in held_out}
    lengths = sorted(len(f.summary) for f in held_out)
    items = multiple_choice(held_out, count=300, rng=np.random.default_rng(1))
    assert len({item.question for item in items}) == 300
    gaps = []
    for item in items:
        assert item.choices[item.answer] == summaries[item.question]
        assert len({normalised(choice) for choice in item.choices}) == 4
        gaps += [abs(len(c) - len(item.choices[item.answer])) for c in item.choices]
    assert np.median(gaps) < (lengths[-1] - lengths[0]) / 20


def test_the_answers_place_is_uniform(held_out: list[FunctionDoc]) -> None:
    items = multiple_choice(held_out, count=len(held_out), rng=np.random.default_rng(1))
    counts = np.bincount([item.answer for item in items], minlength=4)
    expected = len(items) / 4
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # 99.9th percentile, 3 degrees


def test_the_generator_decides_the_items(held_out: list[FunctionDoc]) -> None:
    first, again, other = (
        multiple_choice(held_out, count=9, rng=np.random.default_rng(s)) for s in (4, 4, 5)
    )
    assert first == again != other


def test_equal_summaries_and_equal_last_names_are_no_distractors() -> None:
    functions = [named("a.f", "One of x."), named("b.f", "Two of y."), named("c.g", "one of  x"),
                 named("c.h", "Three of z."), named("c.i", "Four."),
                 named("c.j", "A fifth.")]  # fmt: skip
    for seed in range(20):
        (item,) = (
            item
            for item in multiple_choice(functions, count=6, rng=np.random.default_rng(seed))
            if "`a.f`" in item.question
        )
        assert set(item.choices) == {"One of x.", "Three of z.", "Four.", "A fifth."}


def test_bad_values_are_refused(held_out: list[FunctionDoc]) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="count=4"):
        multiple_choice(held_out[:3], count=4, rng=rng)
    with pytest.raises(ValueError, match="needs 3 distractors"):
        multiple_choice(held_out[:3], count=1, rng=rng)
    with pytest.raises(ValueError, match="answer=4"):
        Item(question="?", choices=("a", "b"), answer=4)
    with pytest.raises(ValueError, match="differ"):
        Item(question="?", choices=("a", "a"), answer=0)
