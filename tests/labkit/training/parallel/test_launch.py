"""Ranks: results by rank, tracebacks, deaths and deadlines."""

import os
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from labkit.training.parallel.launch import RankError, Ranks


def place(offset: int) -> tuple[int, int]:
    return dist.get_rank() + offset, dist.get_world_size()


def fail_on_one() -> None:
    if dist.get_rank() == 1:
        raise ArithmeticError("seven is not prime")


def die() -> None:
    os.write(2, b"my disk is on fire\n")
    os._exit(3)


def hang() -> None:
    if dist.get_rank() == 0:
        time.sleep(600)


def test_results_come_back_in_the_order_of_ranks(on_ranks) -> None:
    assert on_ranks(3, place, 5) == [(5, 3), (6, 3), (7, 3)]


def test_a_failure_carries_the_traceback_of_the_rank(on_ranks) -> None:
    with pytest.raises(RankError, match=r"(?s)rank 1 of 2 failed.*fail_on_one.*seven is not prime"):
        on_ranks(2, fail_on_one)


def test_a_rank_that_dies_is_named(on_ranks) -> None:
    with pytest.raises(RankError, match=r"(?s)died without a word.*my disk is on fire"):
        on_ranks(2, die)


def test_a_rank_that_dies_between_calls_is_named(on_ranks, tmp_path: Path) -> None:
    on_ranks(2, place, 0)
    with Ranks(2, tmp_path) as ranks:
        ranks._processes[1].kill()
        ranks._processes[1].join()
        with pytest.raises(RankError, match="rank 1 of 2 died"):
            ranks.run(place, 0)


def test_a_rank_that_hangs_is_ended_at_the_deadline(on_ranks, tmp_path: Path) -> None:
    on_ranks(2, place, 0)  # the fork server is warm, and the path is set
    with Ranks(2, tmp_path) as ranks:
        ranks._deadline_s = 0.5
        processes = list(ranks._processes)
        pids = [process.pid for process in processes]
        with pytest.raises(RankError, match=r"ranks \[0\] overran 0.5 s"):
            ranks.run(hang)
        assert not ranks.alive
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        with pytest.raises(RankError, match="have ended"):
            ranks.run(place, 0)


def test_no_ranks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="size=0"):
        Ranks(0, tmp_path)


def test_what_a_notebook_defines_travels_by_value(on_ranks, monkeypatch) -> None:
    offset = 5

    def own() -> int:
        return dist.get_rank() + offset

    own.__module__ = "__main__"
    assert on_ranks(2, own) == [5, 6]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install cloudpickle"):
        on_ranks(2, own)


def refuse() -> None:
    raise ValueError("seven")


def test_a_value_error_is_the_cause(on_ranks) -> None:
    with pytest.raises(RankError) as caught:
        on_ranks(2, refuse)
    assert isinstance(caught.value.__cause__, ValueError)
    assert str(caught.value.__cause__) == "seven"
