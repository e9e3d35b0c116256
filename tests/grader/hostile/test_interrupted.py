"""Row 48 and a busy machine: the grader is killed anywhere and run again, or gets little time.

`HOSTILE_KILLS=50` kills more often, `HOSTILE_SEED` at other moments.
"""

import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import hostile_class
import hostile_runs
import psutil
import pytest
from hostile_class import LAB, Class
from hostile_runs import Run
from hostile_submissions import read_all

from grader.box import linux
from grader.box.tier import Tier
from grader.course import Course

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
KILLS, SEED = int(os.environ.get("HOSTILE_KILLS", "2")), int(os.environ.get("HOSTILE_SEED", "0"))
AMONG_THEM = (
    "05_endless_loop",
    "10_list_that_grows",
    "15_exits_in_a_function",
    "19_a_gigabyte_in_one_line",
    "44_not_json",
)
HONEST = ["s00-perfect", "s00-half", "s99-blank", "s99-wrong"]
BUSY = "while True: pass"
TIMES_THE_CORES = 4
GONE_WITHIN_S = 5.0
CHILD_SUBREAPER = 36  # of prctl(2)


@contextmanager
def a_class(course: Course) -> Iterator[Class]:
    submissions = [submission for submission in read_all() if submission.name in AMONG_THEM]
    with hostile_runs.a_root() as root:
        made = hostile_class.build(course, root, submissions, HONEST, port=0)
        for folder in (made.course.root / "submitted").glob(f"*/{LAB}"):
            os.utime(folder, (hostile_class.RECEIVED, hostile_class.RECEIVED))
        yield made


@pytest.fixture(scope="module")
def undisturbed(course: Course, tier: Tier) -> Iterator[Run]:
    """The class graded in peace."""
    with a_class(course) as made:
        run = hostile_runs.grade(made, tier)
        assert run.code == 0
        yield run


@pytest.fixture
def adopting() -> Iterator[None]:
    """Whatever loses its parent becomes a child of this process."""
    linux.adopt_orphans()
    yield
    linux.prctl(CHILD_SUBREAPER, 0)


def test_killed_anywhere_and_run_again_it_ends_the_same(
    course: Course, tier: Tier, undisturbed: Run, adopting: None
) -> None:
    moments = random.Random(SEED)
    with a_class(course) as made:
        for _ in range(KILLS):
            _kill_after(made, tier, moments.uniform(0.3, undisturbed.seconds))
            assert _gone()
            _check_nothing_is_half_written(made)
        again = hostile_runs.grade(made, tier)
        assert again.code == 0
        assert hostile_runs.grades(made.course) == hostile_runs.grades(undisturbed.made.course)
        assert _untimed(again) == _untimed(undisturbed)


def _kill_after(made: Class, tier: Tier, seconds: float) -> None:
    """Start grading and kill the grader and its process group, wherever it is."""
    arguments = ("autograde", LAB, "--tier", tier, "--jobs", hostile_runs.JOBS)
    process = subprocess.Popen(
        hostile_runs.command(made, *arguments),
        cwd=made.course.root,
        env=made.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _gone() -> bool:
    """Whether no process is left of what this one started."""
    until = time.monotonic() + GONE_WITHIN_S
    while children := psutil.Process().children(recursive=True):
        for child in children:
            if child.status() == psutil.STATUS_ZOMBIE and child.ppid() == os.getpid():
                os.waitpid(child.pid, 0)
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _check_nothing_is_half_written(made: Class) -> None:
    """Each result can be read, each submission is in the gradebook with all its scores or not."""
    hostile_runs.results(made.course)
    if not made.course.gradebook.exists():
        return
    with closing(sqlite3.connect(made.course.gradebook)) as book:
        assert book.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        tables = {name for (name,) in book.execute("SELECT name FROM sqlite_master")}
        if "grade" in tables:
            unscored = "SELECT count(*) FROM grade WHERE auto_score IS NULL"
            assert book.execute(unscored).fetchone() == (0,)


def _untimed(run: Run) -> dict[str, object]:
    return {student: hostile_runs.untimed(result) for student, result in run.results.items()}


def test_on_a_busy_machine_everybody_gets_the_same(
    course: Course, tier: Tier, undisturbed: Run
) -> None:
    with a_class(course) as made, _busy_cores():
        run = hostile_runs.grade(made, tier)
    assert run.code == 0
    assert _scores(run) == _scores(undisturbed)


@contextmanager
def _busy_cores() -> Iterator[None]:
    """Four programs for each core that never wait."""
    count = TIMES_THE_CORES * (os.cpu_count() or 1)
    running = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def _scores(run: Run) -> dict[str, list[tuple[str, str, float]]]:
    return {
        student: [(cell.cell, cell.status, cell.score) for cell in result.cells]
        for student, result in run.results.items()
    }


def test_handing_in_again_while_being_graded_twice(course: Course, tier: Tier) -> None:
    """Who is named twice and replaces the notebook all the time gets one result, of one of both."""
    student, other = "s00-perfect", "s99-wrong"
    named = [text for name in (student, other, student) for text in ("--student", name)]
    with a_class(course) as made, _handing_in_again(made, student):
        code, printed, _ = hostile_runs.run(made, "autograde", LAB, "--tier", tier, *named)
        assert code == 0, printed
        results, rows = hostile_runs.results(made.course), hostile_runs.grades(made.course)
    assert set(results) == {student, other}
    assert (results[student].status, results[student].score) in (("OK", 32.0), ("WRONG", 0.0))
    assert results[other].score == hostile_class.HONEST["wrong"]
    scored = {(r.student, cell.cell): cell.score for r in results.values() for cell in r.cells}
    assert {key: row[0] for key, row in rows.items()} == scored


@contextmanager
def _handing_in_again(made: Class, student: str) -> Iterator[None]:
    """Put another notebook in the place of a student's, again and again, each time whole."""
    over, path = threading.Event(), made.course.submitted(LAB, student)
    versions = [path.read_bytes(), made.course.release(LAB).read_bytes()]

    def again() -> None:
        for version in itertools.cycle(versions):
            if over.wait(0.005):
                return
            part = made.home.with_name("part.ipynb")
            part.write_bytes(version)
            os.replace(part, path)

    thread = threading.Thread(target=again)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
