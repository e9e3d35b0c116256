"""Schedules: complete, free of deadlock, bubbles equal to the formulas, activations counted."""

import pytest

from labkit.training.parallel.schedules import (
    Action,
    bubble_formula,
    bubble_fraction,
    gpipe,
    interleaved,
    one_forward_one_backward,
    peak_in_flight,
    timeline,
)

SIZES = [(1, 1), (1, 5), (2, 3), (3, 3), (3, 7), (4, 2), (5, 11)]


@pytest.mark.parametrize("cost", [1.0, 2.0, 3.5])
@pytest.mark.parametrize(("p", "m"), SIZES)
@pytest.mark.parametrize("make", [gpipe, one_forward_one_backward])
def test_bubble_of_one_chunk_is_the_formula(make, p: int, m: int, cost: float) -> None:
    spans = timeline(make(p, m), backward_cost=cost)
    assert bubble_fraction(spans) == pytest.approx((p - 1) / (m + p - 1))
    assert bubble_formula(p, m) == pytest.approx((p - 1) / (m + p - 1))


@pytest.mark.parametrize(("p", "m", "v"), [(2, 4, 2), (2, 2, 3), (3, 6, 2), (3, 9, 3), (4, 8, 5)])
def test_interleaving_divides_the_bubble(p: int, m: int, v: int) -> None:
    spans = timeline(interleaved(p, m, v))
    assert bubble_fraction(spans) == pytest.approx(bubble_formula(p, m, v))
    assert bubble_formula(p, m, v) < bubble_formula(p, m)


@pytest.mark.parametrize("schedule", [gpipe(3, 7), one_forward_one_backward(3, 7)])
def test_each_rank_does_each_pass_once(schedule) -> None:
    for actions in schedule:
        assert len(actions) == len(set(actions)) == 14


def test_interleaved_passes_are_complete() -> None:
    for actions in interleaved(3, 6, 2):
        assert len(actions) == len(set(actions)) == 2 * 6 * 2
        assert {action.chunk for action in actions} == {0, 1}


def test_one_chunk_interleaved_is_complete_too() -> None:
    spans = timeline(interleaved(3, 6, 1))
    assert bubble_fraction(spans) == pytest.approx(bubble_formula(3, 6))


def test_1f1b_holds_p_micro_batches_where_gpipe_holds_all() -> None:
    p, m = 3, 7
    assert [peak_in_flight(actions) for actions in gpipe(p, m)] == [m] * p
    peaks = [peak_in_flight(actions) for actions in one_forward_one_backward(p, m)]
    assert peaks == [p - rank for rank in range(p)]


def test_1f1b_reads_as_drawn_in_the_paper() -> None:
    first, last = one_forward_one_backward(2, 3)
    assert " ".join(map(str, first)) == "F0 F1 B0 F2 B1 B2"
    assert " ".join(map(str, last)) == "F0 B0 F1 B1 F2 B2"
    assert str(Action(backward=False, microbatch=4, chunk=2)) == "F4.2"


def test_a_deadlock_is_named() -> None:
    schedule = gpipe(2, 2)
    schedule[1].reverse()
    with pytest.raises(ValueError, match=r"ranks wait at \{0: 'B0', 1: 'B1'\}"):
        timeline(schedule)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="p=3 ranks must divide m=4"):
        interleaved(3, 4, 2)
    with pytest.raises(ValueError, match="m=0"):
        gpipe(2, 0)
    with pytest.raises(ValueError, match="v=0"):
        interleaved(2, 2, 0)
    with pytest.raises(ValueError, match="m=-1"):
        one_forward_one_backward(2, -1)
