"""Preference and feedback batches: labels on responses only, neighbours mismatched."""

import pytest
import torch

from labkit.data.batch import IGNORE_INDEX
from labkit.data.preferences import (
    Feedback,
    Preference,
    as_feedback,
    collate_feedback,
    collate_preferences,
    feedback_batches,
    preference_batches,
    response_example,
)

PAIRS = [
    Preference(prompt=(1, 2), chosen=(3, 4, 5), rejected=(6,)),
    Preference(prompt=(7,), chosen=(8,), rejected=(9, 10)),
    Preference(prompt=(11, 12, 13), chosen=(14,), rejected=(15, 16)),
]
N = IGNORE_INDEX


def test_only_the_response_is_labelled():
    example = response_example([1, 2], (3, 4, 5))
    assert example.ids == (1, 2, 3, 4, 5)
    assert example.labels == (N, N, 3, 4, 5)


@pytest.mark.parametrize(("prompt", "response"), [((), (1,)), ((1,), ())])
def test_refuses_an_empty_side(prompt, response):
    with pytest.raises(ValueError, match=f"a prompt of {len(prompt)} and a response"):
        response_example(prompt, response)


def test_chosen_rows_come_before_rejected_ones():
    batch = collate_preferences(PAIRS[:2], pad_id=0)
    assert batch.ids.tolist() == [
        [1, 2, 3, 4, 5], [7, 8, 0, 0, 0], [1, 2, 6, 0, 0], [7, 9, 10, 0, 0],
    ]  # fmt: skip
    assert batch.labels.tolist() == [
        [N, N, 3, 4, 5], [N, 8, N, N, N], [N, N, 6, N, N], [N, 9, 10, N, N],
    ]  # fmt: skip


def test_pairs_become_feedback():
    feedback = as_feedback(PAIRS[1:2])
    assert feedback == [
        Feedback(prompt=(7,), response=(8,), desirable=True),
        Feedback(prompt=(7,), response=(9, 10), desirable=False),
    ]


def test_mismatched_rows_have_the_next_response():
    feedback = [Feedback(prompt=p.prompt, response=p.chosen, desirable=len(p.chosen) > 1)
                for p in PAIRS]  # fmt: skip
    batch = collate_feedback(feedback, pad_id=0)
    assert batch.ids.tolist() == [[1, 2, 3, 4, 5], [7, 8, 0, 0, 0], [11, 12, 13, 14, 0]]
    assert batch.desirable.tolist() == [True, False, False]
    assert batch.mismatched.ids.tolist() == [[1, 2, 8, 0, 0, 0], [7, 14, 0, 0, 0, 0],
                                             [11, 12, 13, 3, 4, 5]]  # fmt: skip
    assert batch.mismatched.labels[1].tolist() == [N, 14, N, N, N, N]
    moved = batch.to("cpu")
    assert torch.equal(moved.desirable, batch.desirable)
    assert torch.equal(moved.mismatched.ids, batch.mismatched.ids)


def test_one_response_has_no_neighbour():
    with pytest.raises(ValueError, match="1 responses: a baseline needs at least 2"):
        collate_feedback(as_feedback(PAIRS)[:1], pad_id=0)


def test_batches_show_everything_once_an_epoch_in_a_seeded_order():
    def prompts(seed):
        source = preference_batches(
            PAIRS, batch_size=2, pad_id=0, generator=torch.Generator().manual_seed(seed), epochs=2
        )
        return [batch.ids[: len(batch.ids) // 2, 0].tolist() for batch in source]

    rows = prompts(3)
    assert [len(row) for row in rows] == [2, 1, 2, 1]
    assert sorted(rows[0] + rows[1]) == sorted(rows[2] + rows[3]) == [1, 7, 11]
    assert prompts(3) == rows
    assert any(prompts(seed) != rows for seed in range(4, 9))


def test_a_single_response_left_over_is_passed_over():
    feedback = as_feedback(PAIRS)[:5]
    source = feedback_batches(
        feedback, batch_size=2, pad_id=0, generator=torch.Generator().manual_seed(0), epochs=1
    )
    assert [len(batch.desirable) for batch in source] == [2, 2]
