"""Grading by workers over Redis: the same grades, also when a worker or the broker is lost."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from grader import sample_class
from grader.box.tier import Tier
from grader.course import Course
from grader.grading.autograde import autograde
from grader.grading.distributed import Remote
from grader.notebooks import write_notebook
from grader.results import CellResult, Result

LAB = "lab03_lora"
STUDENTS = 6
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is missing"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is missing"),
]


class Redis:
    """A redis-server on a port of its own, without files."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._folder = folder
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.start()

    def start(self) -> None:
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            ["redis-server", "--port", str(self._port), *options],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(0.1)
        raise TimeoutError("redis-server did not start")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    made = Redis(tmp_path)
    yield made
    made.stop()


class Workers:
    """`grader worker` processes of a course."""

    def __init__(self, course: Course, broker: str) -> None:
        self._command = [sys.executable, "-m", "grader.cli.main", "--root", str(course.root)]
        self._command += ["worker", "--broker", broker, "--jobs", "1"]
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        process = subprocess.Popen(self._command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        self._running.append(process)

    def kill_first(self) -> None:
        process = self._running.pop(0)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait(30)


@pytest.fixture
def workers(course: Course, redis: Redis) -> Iterator[Workers]:
    made = Workers(course, redis.url)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def students(course: Course) -> list[str]:
    """Students whose answers all differ, so that nothing comes from the cache."""
    samples = {s.student: s.notebook for s in sample_class.samples(course, LAB)}
    kinds = ("ada-perfect", "ben-half", "fay-cheat")
    names = [f"remote-{index}" for index in range(STUDENTS)]
    for index, name in enumerate(names):
        write_notebook(course.submitted(LAB, name), samples[kinds[index % len(kinds)]])
    return names


def remotely(course: Course, broker: str, students: list[str]) -> Iterator[Result]:
    remote = Remote(course, LAB, Tier.BUBBLEWRAP, broker)
    return autograde(course, LAB, students=students, jobs=2, fresh=True, elsewhere=remote)


def verdicts(results: list[Result]) -> list[tuple[str, list[tuple[str, str, float]]]]:
    def of(cell: CellResult) -> tuple[str, str, float]:
        return cell.cell, cell.status.value, cell.score

    return [(result.student, [of(cell) for cell in result.cells]) for result in results]


@pytest.fixture
def local(course: Course, students: list[str]) -> list[tuple[str, list[tuple[str, str, float]]]]:
    return verdicts(list(autograde(course, LAB, students=students, fresh=True)))


def test_a_worker_gives_the_same_grades(
    course: Course,
    redis: Redis,
    workers: Workers,
    students: list[str],
    local: list[tuple[str, list[tuple[str, str, float]]]],
) -> None:
    assert verdicts(list(remotely(course, redis.url, students))) == local


def test_a_lost_workers_submissions_are_graded_by_another(
    course: Course,
    redis: Redis,
    workers: Workers,
    students: list[str],
    local: list[tuple[str, list[tuple[str, str, float]]]],
) -> None:
    grading = remotely(course, redis.url, students)
    results = [next(grading)]
    workers.kill_first()
    workers.start()
    results += grading
    assert verdicts(results) == local


def test_a_restarted_broker_loses_nothing(
    course: Course,
    redis: Redis,
    workers: Workers,
    students: list[str],
    local: list[tuple[str, list[tuple[str, str, float]]]],
) -> None:
    grading = remotely(course, redis.url, students)
    results = [next(grading)]
    redis.stop()
    redis.start()
    results += grading
    assert verdicts(results) == local


def test_a_worker_with_other_checks_is_refused(
    course: Course, redis: Redis, workers: Workers, students: list[str]
) -> None:
    remote = Remote(course, LAB, Tier.BUBBLEWRAP, redis.url)
    remote._order["code"] = "another"
    grading = autograde(course, LAB, students=students[:1], fresh=True, elsewhere=remote)
    with pytest.raises(OSError, match="other checks, another release or other package versions"):
        next(grading)
