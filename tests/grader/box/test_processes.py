"""What counts as the memory of a process and its forks, measured on real ones."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from grader.box.processes import held_bytes

MIB = 2**20
HELD, FORKS = 128 * MIB, 3
FAMILY = f"""
import os, signal, sys
held = bytearray(os.urandom(2**20)) * {HELD // MIB}
ready = os.pipe()
for _ in range({FORKS}):
    if os.fork() == 0:
        {{in_a_fork}}
        os.write(ready[1], b"x")
        signal.pause()
for _ in range({FORKS}):
    os.read(ready[0], 1)
print("ready", flush=True)
sys.stdin.read()
os.killpg(0, signal.SIGKILL)
"""


@contextmanager
def family(in_a_fork: str) -> Iterator[int]:
    process = subprocess.Popen(
        [sys.executable, "-c", FAMILY.format(in_a_fork=in_a_fork)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    try:
        yield process.pid
    finally:
        process.communicate()


def test_what_forks_share_counts_once() -> None:
    with family("pass") as pid:
        assert HELD < held_bytes(pid, 2 * HELD) < 2 * HELD


@pytest.mark.parametrize("forbids", ["", "import ctypes; ctypes.CDLL(None).prctl(4, 0); "])
def test_what_each_fork_holds_of_its_own_counts_each_time(forbids: str) -> None:
    with family(f"{forbids}held[::4096] = bytes(len(held[::4096]))") as pid:
        assert held_bytes(pid, 2 * HELD) > (1 + FORKS) * HELD


def test_below_the_limit_nothing_is_looked_at_closely() -> None:
    with family("pass") as pid:
        assert held_bytes(pid, 100 * HELD) > (1 + FORKS) * HELD


def test_who_is_gone_holds_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert held_bytes(process.pid, 0) == 0
