"""Generated data: every answer recomputed, phrasings disjoint, seeds decide everything."""

import numpy as np
import pytest

from labkit.data import synthetic


def test_people_have_different_names_and_every_attribute() -> None:
    persons = synthetic.people(731, np.random.default_rng(3))
    assert len({person.name for person in persons}) == 731
    for person in persons:
        assert person.facts.keys() == synthetic.ATTRIBUTES.keys()
        assert all(value in synthetic.ATTRIBUTES[key] for key, value in person.facts.items())


def test_attribute_values_are_uniform() -> None:
    persons = synthetic.people(6000, np.random.default_rng(5))
    for key, values in synthetic.ATTRIBUTES.items():
        counts = [sum(person.facts[key] == value for person in persons) for value in values]
        chi_square = sum((count - 500) ** 2 / 500 for count in counts)
        assert chi_square < 31.3  # 99.9th percentile at 11 degrees of freedom


def test_statements_say_the_fact_in_different_words() -> None:
    (person,) = synthetic.people(1, np.random.default_rng(1))
    statements = synthetic.fact_statements([person])
    assert len(statements) == len(set(statements)) == 18
    for i, value in enumerate(person.facts.values()):
        assert all(person.name in s and value in s for s in statements[3 * i : 3 * i + 3])
    assert synthetic.fact_statements([person], paraphrases=1) == statements[::3]


def test_held_out_questions_are_never_trained_and_share_the_answers() -> None:
    persons = synthetic.people(17, np.random.default_rng(2))
    train = synthetic.fact_tasks(persons)
    held_out = synthetic.fact_tasks(persons, held_out=True)
    assert len(train) == 17 * 6 * 2
    assert len(held_out) == 17 * 6
    assert not {task.prompt for task in train} & {task.prompt for task in held_out}
    name, facts = persons[4].name, persons[4].facts
    answers = {task.kind: task.answer for task in held_out if name in task.prompt}
    assert answers == facts


def test_arithmetic_is_right_and_uses_every_operation() -> None:
    tasks = synthetic.arithmetic(200, np.random.default_rng(0), largest=37)
    for task in tasks:
        a, sign, b, _ = task.prompt.split()
        assert max(int(a), int(b)) <= 37
        expected = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
        assert task.answer == str(expected)
    assert {task.kind for task in tasks} == {"add", "subtract", "multiply"}


def test_list_tasks_are_right() -> None:
    tasks = synthetic.list_tasks(200, np.random.default_rng(0), longest=7)
    for task in tasks:
        kind, letters = task.prompt.split(": ")
        assert 3 <= len(letters) <= 13
        assert (
            task.answer
            == {
                "copy": letters,
                "sort": " ".join(sorted(letters.split())),
                "reverse": letters[::-1],
            }[kind]
        )
    assert {task.kind for task in tasks} == {"copy", "sort", "reverse"}


def test_the_seed_decides_everything() -> None:
    first, again, other = (
        [
            synthetic.people(9, rng),
            synthetic.arithmetic(9, rng),
            synthetic.list_tasks(9, rng),
        ]
        for rng in map(np.random.default_rng, (11, 11, 12))
    )
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_tasks_become_chats_and_texts() -> None:
    task = synthetic.Task(kind="add", prompt="1 + 2 =", answer="3")
    assert synthetic.as_texts([task]) == ["1 + 2 = 3"]
    assert synthetic.as_chats([task]) == [
        [{"role": "user", "content": "1 + 2 ="}, {"role": "assistant", "content": "3"}]
    ]


def test_bad_values_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="count=9999"):
        synthetic.people(9999, rng)
    with pytest.raises(ValueError, match="paraphrases=4"):
        synthetic.fact_statements([], paraphrases=4)
    with pytest.raises(ValueError, match="largest=0"):
        synthetic.arithmetic(3, rng, largest=0)
    with pytest.raises(ValueError, match="longest=27"):
        synthetic.list_tasks(3, rng, longest=27)
