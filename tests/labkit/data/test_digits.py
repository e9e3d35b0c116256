"""The digits, how they are split, and the questions asked about them."""

import sys

import numpy as np
import pytest
import torch

from labkit.data import digits
from labkit.runtime.errors import MissingDependencyError

LETTER = {digits.WHICH: "0123456789", digits.PARITY: "eoeoeoeoeo", digits.LARGER: "nnnnnnyyyy"}


def test_images_and_labels_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    ours, theirs = digits.load(), load_digits()
    assert ours.images.shape == (1797, 1, 8, 8)
    np.testing.assert_allclose(ours.images[:, 0].numpy() * 16, theirs.images)
    np.testing.assert_array_equal(ours.labels.numpy(), theirs.target)


def test_split_is_fixed_by_the_seed_and_loses_nothing() -> None:
    everything = digits.load()
    marked = digits.Digits(everything.images, torch.arange(1797))
    train, held = digits.split(marked, held_out=300, seed=3)
    assert (len(train), len(held)) == (1497, 300)
    assert sorted(torch.cat((train.labels, held.labels)).tolist()) == list(range(1797))
    torch.testing.assert_close(held.images, everything.images[held.labels])
    assert torch.equal(digits.split(marked, held_out=300, seed=3)[1].labels, held.labels)
    assert not torch.equal(digits.split(marked, held_out=300, seed=4)[1].labels, held.labels)


@pytest.mark.parametrize("held_out", [0, 1797])
def test_a_split_with_an_empty_side_is_refused(held_out: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 1796"):
        digits.split(digits.load(), held_out=held_out)


@pytest.mark.parametrize("kind", digits.KINDS, ids=lambda kind: kind.name)
def test_answers_are_right_for_every_digit(kind: digits.QuestionKind) -> None:
    assert "".join(kind.answer(digit)[0] for digit in range(10)) == LETTER[kind]
    assert len(set(kind.phrasings)) == 4


def test_chats_ask_all_kinds_and_never_the_last_wording(gen: torch.Generator) -> None:
    labels = torch.arange(10).repeat(30)
    asked = set()
    for digit, chat in zip(labels.tolist(), digits.chats(labels, digits.KINDS, gen), strict=True):
        _, user, assistant = chat
        picture, _, wording = user["content"].partition("\n")
        assert picture == "<image>"
        [kind] = [kind for kind in digits.KINDS if wording in kind.phrasings]
        assert assistant == {"role": "assistant", "content": kind.answer(digit)}
        asked.add((kind.name, kind.phrasings.index(wording)))
    assert asked == {(kind.name, i) for kind in digits.KINDS for i in range(3)}


def test_chats_need_a_kind(gen: torch.Generator) -> None:
    with pytest.raises(ValueError, match="nothing to ask"):
        digits.chats([1], (), gen)


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependencyError, match=r"llm-engineering-lab\[course\]"):
        digits.load()
