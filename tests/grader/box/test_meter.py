"""A busy machine takes no time from who wants a processor; who sleeps is counted by the clock."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from grader.box import meter
from grader.box.meter import Meter
from grader.box.processes import processor_s, wants_processor

WORKS, SLEEPS = "while True: pass", "import time; time.sleep(60)"
IN_A_FORK = f"import os, time; os.fork() or exec({WORKS!r}); time.sleep(60)"
IN_A_THREAD = (
    f"import threading, time; threading.Thread(target=exec, args=[{WORKS!r}]).start(); "
    "time.sleep(60)"
)
PASSES_S = 1.0
RIVALS = 3


@contextmanager
def running(program: str, count: int = 1) -> Iterator[int]:
    """Programs on one processor; yields the first's identifier, ready to be measured."""
    core = min(os.sched_getaffinity(0))
    started = [
        subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
        for _ in range(count)
    ]
    try:
        for process in started:
            os.sched_setaffinity(process.pid, {core})
        time.sleep(0.3)
        yield started[0].pid
    finally:
        for process in started:
            os.killpg(process.pid, 9)
            process.wait()


def spent_s(pid: int) -> float:
    made, until = Meter(pid), time.monotonic() + PASSES_S
    while time.monotonic() < until:
        time.sleep(0.02)
        made.read()
    return made.spent_s


def test_who_shares_a_processor_is_charged_a_share() -> None:
    with running(WORKS, 1 + RIVALS) as pid:
        assert spent_s(pid) < 0.6 * PASSES_S


def test_who_sleeps_is_charged_the_clock_s_time() -> None:
    with running(SLEEPS) as pid:
        assert spent_s(pid) == pytest.approx(PASSES_S, rel=0.1)


@pytest.mark.parametrize("program", [WORKS, IN_A_FORK, IN_A_THREAD])
def test_who_works_is_seen_in_forks_and_threads(program: str) -> None:
    with running(program) as pid:
        before = processor_s(pid)
        assert any(wants_processor(pid) for _ in range(5))
        assert 0 < spent_s(pid) <= 1.1 * PASSES_S
        assert processor_s(pid) > before


def test_many_threads_are_charged_no_more_than_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    used = iter([0.0, 1_000.0])
    monkeypatch.setattr(meter, "processor_s", lambda pid: next(used))
    monkeypatch.setattr(meter, "wants_processor", lambda pid: True)
    made = Meter(0)
    time.sleep(0.01)
    made.read()
    assert 0.01 <= made.spent_s < 1


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "processor_s", lambda pid: 0.0)
    monkeypatch.setattr(meter, "wants_processor", lambda pid: True)
    made = Meter(0)
    left = made.left(0.01)
    time.sleep(0.01 * meter.PATIENCE)
    made.read()
    assert made.spent_s == 0
    assert left() <= 0


def test_who_is_gone_is_charged_the_clock_s_time() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert not wants_processor(process.pid)
    assert processor_s(process.pid) == 0
