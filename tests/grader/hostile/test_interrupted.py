"""Row 48 and a busy machine: the grader is killed anywhere and run again, or gets little time.

`HOSTILE_KILLS=50` kills more often, `HOSTILE_SEED` at other moments.
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hostile_class
import hostile_faults
import hostile_machine as machine
import hostile_runs
import pytest
from hostile_class import LAB, Class
from hostile_faults import Graders, Outcome
from hostile_runs import Run
from hostile_submissions import read_all

from grader.box.leftovers import PREFIX
from grader.box.tier import Tier
from grader.course import Course
from grader.notebooks import grade_id, read_notebook, write_notebook

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
KILLS, SEED = int(os.environ.get("HOSTILE_KILLS", "5")), int(os.environ.get("HOSTILE_SEED", "0"))
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
FEW = ("15_exits_in_a_function", "44_not_json")
ENDLESS = """
import os
import signal
import sys


def lora_delta(*arguments, **options):
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, ["hostile-leftover", "-c", "import time; time.sleep(900)"])
        os._exit(0)
    while True:
        pass
"""


@contextmanager
def a_class(
    course: Course, hostile: Sequence[str] = AMONG_THEM, honest: list[str] = HONEST
) -> Iterator[Class]:
    submissions = [submission for submission in read_all() if submission.name in hostile]
    with hostile_runs.a_root() as root:
        made = hostile_class.build(course, root, submissions, honest, port=0)
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


@pytest.fixture(scope="module")
def graders() -> Iterator[Graders]:
    made = Graders()
    yield made
    made.close()


def test_killed_anywhere_and_run_again_it_ends_the_same(
    course: Course, tier: Tier, graders: Graders, tmp_path: Path
) -> None:
    """Every second time answers that are known already are run again, so that boxes are killed."""
    moments = random.Random(SEED)
    options = ("--tier", tier, "--jobs", hostile_runs.JOBS)
    with a_class(course, FEW) as made:
        peaceful = hostile_faults.copied(made, tmp_path)
        started = time.monotonic()
        whole = graders.run(peaceful, *options)
        longest = time.monotonic() - started
        assert whole is not None
        assert (whole.code, whole.left) == (0, []), whole.printed
        for kill in range(KILLS):
            again = ("--fresh",) if kill % 2 else ()
            killed = graders.run(made, *options, *again, after_s=moments.uniform(0, longest))
            assert killed is not None
            assert killed.code in (0, -signal.SIGKILL), killed.printed
            assert killed.left == []
            hostile_faults.check_nothing_is_half_written(made)
        last = graders.run(made, *options)
        assert last is not None
        assert (last.code, last.left) == (0, []), last.printed
        assert Outcome.of(made).unlike(Outcome.of(peaceful)) == []


def test_what_a_submission_runs_ends_with_the_grader_that_is_killed(
    course: Course, tier: Tier, graders: Graders
) -> None:
    """An answer that never returns, beside a process that left its parent and session."""
    options = ("--tier", tier, "--student", "s00-wrong")
    with a_class(course, [], ["s00-wrong"]) as made:
        _answer(made, "s00-wrong", ENDLESS)
        before = machine.mounts()
        killed = graders.run(made, *options, when_seen=machine.LEFTOVER)
        assert killed is not None
        assert (killed.code, killed.left) == (-signal.SIGKILL, [])
        assert machine.daemons() == []
        assert machine.mounts() <= before
        _answer(made, "s00-wrong", hostile_class.WRONG_DELTA)
        after = graders.run(made, *options)
        assert after is not None
        assert (after.code, after.left) == (0, []), after.printed
        assert list(made.scratch.glob(f"{PREFIX}*")) == []


def _answer(made: Class, student: str, answer: str) -> None:
    path = made.course.submitted(LAB, student)
    notebook = read_notebook(path)
    next(cell for cell in notebook["cells"] if grade_id(cell) == "lora_delta")["source"] = answer
    write_notebook(path, notebook)


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
    count = TIMES_THE_CORES * len(os.sched_getaffinity(0))
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
    by_checks = {key: row[0] for key, row in rows.items() if key[1] != hostile_class.BY_A_PERSON}
    assert by_checks == scored


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
