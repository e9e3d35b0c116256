"""The listing is complete, the reward is what it says, preferences follow Bradley and Terry."""

import pytest
import torch

from labkit.data.batch import IGNORE_INDEX
from labkit.data.rising import RisingTask

TASK = RisingTask(num_symbols=4, length=3)


def test_every_sequence_is_listed_once_by_prompt():
    batch = TASK.every_sequence()
    rows = [tuple(row) for row in batch.ids.tolist()]
    assert len(rows) == len(set(rows)) == 4**4
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert [row[1:] for row in rows[64:128]] == TASK.responses()
    assert (batch.labels[:, 0] == IGNORE_INDEX).all()
    assert torch.equal(batch.labels[:, 1:], batch.ids[:, 1:])


def test_reward_is_the_share_of_rises():
    ids = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0], [2, 2, 3, 3], [1, 0, 1, 2]])
    assert TASK.rewards(ids).tolist() == pytest.approx([1.0, 0.0, 1 / 3, 2 / 3])


def test_listed_rewards_have_a_row_for_each_prompt():
    rewards = TASK.listed_rewards()
    assert rewards.shape == (4, 64)
    assert rewards.max(-1).values.tolist() == pytest.approx([1.0, 2 / 3, 2 / 3, 2 / 3])
    b = TASK.responses().index((0, 3, 1))
    assert rewards[2, b].item() == pytest.approx(1 / 3)


def test_preferences_follow_bradley_and_terry(gen):
    pairs = TASK.preferences(6000, scale=2.0, generator=gen)
    by_margin: dict[float, list[bool]] = {}
    for pair in pairs:
        ids = torch.tensor([(*pair.prompt, *pair.chosen), (*pair.prompt, *pair.rejected)])
        chosen, rejected = TASK.rewards(ids).tolist()
        by_margin.setdefault(round(abs(chosen - rejected) * 3), []).append(chosen > rejected)
    for thirds in (1, 2):
        wins = by_margin[thirds]
        expected = 1.0 / (1.0 + 2.718281828 ** (-2.0 * thirds / 3))
        error = (expected * (1 - expected) / len(wins)) ** 0.5
        assert sum(wins) / len(wins) == pytest.approx(expected, abs=4 * error)


def test_preferences_follow_the_generator():
    first, again, other = (
        TASK.preferences(20, scale=1.0, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_symbols": 1}, "num_symbols=1 must be at least 2"),
        ({"length": 0}, "length=0 at least 1"),
        ({"num_symbols": 30}, r"30\^4 sequences are too many"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        RisingTask(**({"num_symbols": 4, "length": 3} | change))
