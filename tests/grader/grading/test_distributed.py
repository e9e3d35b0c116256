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
from typing import Any

import psutil
import pytest

from grader import sample_class
from grader.box.leftovers import PREFIX
from grader.box.tier import Tier
from grader.course import Course
from grader.gradebook.opening import opened
from grader.grading.autograde import autograde
from grader.grading.distributed import Remote
from grader.notebooks import write_notebook
from grader.results import CellResult, Result

LAB = "lab03_lora"
STUDENTS = 6
KILLS = int(os.environ.get("HOSTILE_KILLS", "1"))  # of workers
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

    def __init__(self, course: Course, broker: str, scratch: Path) -> None:
        self.scratch = scratch
        self._command = [sys.executable, "-m", "grader.cli.main", "--root", str(course.root)]
        self._command += ["worker", "--broker", broker, "--jobs", "1"]
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.scratch)}
        process = subprocess.Popen(self._command, env=environment)
        self._running.append(process)

    def kill_first(self) -> list[psutil.Process]:
        """Kill the worker that has run longest; what it had started."""
        process = self._running.pop(0)
        started: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        return started

    def stop(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait(30)
        self._running.clear()


@pytest.fixture
def workers(course: Course, redis: Redis, tmp_path: Path) -> Iterator[Workers]:
    (scratch := tmp_path / "scratch").mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    made = Workers(course, redis.url, scratch)
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


Graded = tuple[list[tuple[str, list[tuple[str, str, float]]]], dict[tuple[str, str], Any]]


def verdicts(results: list[Result]) -> list[tuple[str, list[tuple[str, str, float]]]]:
    def of(cell: CellResult) -> tuple[str, str, float]:
        return cell.cell, cell.status.value, cell.score

    return [(result.student, [of(cell) for cell in result.cells]) for result in results]


def graded(course: Course, results: list[Result]) -> Graded:
    """Results in order, and what the gradebook says of these students."""
    with opened(course) as gradebook:
        rows = {
            (submission.student.id, grade.name): (
                grade.auto_score,
                grade.needs_manual_grade,
                submission.timestamp,
            )
            for submission in gradebook.assignment_submissions(LAB)
            for grade in submission.notebooks[0].grades
            if submission.student.id.startswith("remote-")
        }
    return verdicts(results), rows


@pytest.fixture
def local(course: Course, students: list[str]) -> Graded:
    """The same students graded here; then their scores in the gradebook are spoilt."""
    found = graded(course, list(autograde(course, LAB, students=students, fresh=True)))
    with opened(course) as gradebook:
        for student in students:
            for grade in gradebook.find_submission(LAB, student).notebooks[0].grades:
                if grade.name.startswith(("check_", "hidden_")):
                    grade.auto_score = -1.0
        gradebook.db.commit()
    return found


def test_a_worker_gives_the_same_grades(
    course: Course, redis: Redis, workers: Workers, students: list[str], local: Graded
) -> None:
    assert graded(course, list(remotely(course, redis.url, students))) == local


def test_a_lost_workers_submissions_are_graded_by_another(
    course: Course, redis: Redis, workers: Workers, students: list[str], local: Graded
) -> None:
    """Killed after so many results; what it ran is gone, and its folder once another runs."""
    for _ in range(max(1, KILLS // STUDENTS)):
        results, started = [], []
        for result in remotely(course, redis.url, students):
            results.append(result)
            if len(results) <= min(KILLS, STUDENTS - 1):
                started += workers.kill_first()
                workers.start()
        assert graded(course, results) == local
        assert psutil.wait_procs(started, timeout=10)[1] == []
    workers.stop()
    assert list(workers.scratch.glob(f"{PREFIX}*")) == []


def test_a_restarted_broker_loses_nothing(
    course: Course, redis: Redis, workers: Workers, students: list[str], local: Graded
) -> None:
    grading = remotely(course, redis.url, students)
    results = [next(grading)]
    redis.stop()
    redis.start()
    results += grading
    assert graded(course, results) == local


def test_a_grader_that_is_killed_takes_nothing_with_it(
    course: Course, redis: Redis, workers: Workers, students: list[str], local: Graded
) -> None:
    """What it sent is still graded by workers; the next one sends it again."""
    command = [sys.executable, "-m", "grader.cli.main", "--root", str(course.root)]
    command += ["autograde", LAB, "--fresh", "--broker", redis.url]
    command += [text for student in students for text in ("--student", student)]
    killed = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert killed.stdout is not None
    while students[0].encode() not in killed.stdout.readline():
        assert killed.poll() is None
    killed.kill()
    killed.communicate()
    assert graded(course, list(remotely(course, redis.url, students))) == local


def test_a_worker_with_other_checks_is_refused(
    course: Course, redis: Redis, workers: Workers, students: list[str]
) -> None:
    remote = Remote(course, LAB, Tier.BUBBLEWRAP, redis.url)
    remote._order["code"] = "another"
    grading = autograde(course, LAB, students=students[:1], fresh=True, elsewhere=remote)
    with pytest.raises(OSError, match="other checks, another release or other package versions"):
        next(grading)
