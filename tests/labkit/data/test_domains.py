"""Finance and medical chats: answers recomputed from their questions, none twice, seeds decide."""

import re

import numpy as np
import pytest

from labkit.data import domains


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"\d+(?:\.\d)?", text)]


ANSWERS = {
    "A bond": lambda capital, rate, years: (capital * rate * years // 100, capital),
    "A company": lambda revenue, costs: (revenue - costs, revenue),
    "A fund": lambda shares, cents: (shares * cents / 100, shares),
    "A patient of": lambda kg, mg, times: (kg * mg * times, times, kg * mg),
    "An infusion": lambda ml, hours: (ml / hours, hours),
    "A patient's": lambda reading: (reading, 38.0),
}


@pytest.mark.parametrize("make", [domains.finance, domains.medical])
def test_every_answer_follows_from_its_question(make) -> None:
    chats = make(400, np.random.default_rng(1))
    met = set()
    for [question, answer] in chats:
        assert (question["role"], answer["role"]) == ("user", "assistant")
        [kind] = [kind for kind in ANSWERS if question["content"].startswith(kind)]
        met.add(kind)
        expected = ANSWERS[kind](*numbers(question["content"]))
        assert numbers(answer["content"]) == list(expected)
        if kind == "A patient's":
            assert ("no fever" in answer["content"]) == (expected[0] < 38.0)
    assert len(met) == 3
    assert len({question["content"] for [question, _] in chats}) == 400


def test_the_seed_decides_and_too_many_are_refused() -> None:
    first, again, other = (domains.medical(30, np.random.default_rng(s)) for s in (1, 1, 2))
    assert first == again != other
    with pytest.raises(ValueError, match="count=1001"):
        domains.medical(1001, np.random.default_rng(0))
