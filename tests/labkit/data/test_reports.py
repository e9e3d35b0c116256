"""Texts of three fields: held out is held out, and a seed decides."""

import pytest

from labkit.data import reports


@pytest.mark.parametrize("topic", ["finance", "medical", "python"])
def test_held_out_texts_are_no_others(topic: str) -> None:
    training, held_out = (reports.texts(topic, 20, 0, held_out=held) for held in (False, True))
    assert set(training) & set(held_out) == set()
    assert reports.texts(topic, 20, 0, held_out=True) == held_out
