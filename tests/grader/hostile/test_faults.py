"""Something happens to the grader at every step: killed, no room on the disk, a locked gradebook.

Run again, it ends with the same gradebook, results and receipts, and nothing lies about. Answers
are judged without boxes here; `test_interrupted.py` kills graders that have some. Of all steps,
`HOSTILE_KILLS` are tried (50), spread evenly; `HOSTILE_SEED` chooses others.
"""

import os
import re
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import hostile_class
import hostile_faults
import hostile_runs
import pytest
from hostile_class import LAB, RECEIVED, Class
from hostile_faults import Ended, Graders, Outcome, copied

from grader.course import Course
from grader.notebooks import write_notebook
from grader.policy import FILE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
KILLS, SEED = int(os.environ.get("HOSTILE_KILLS", "50")), int(os.environ.get("HOSTILE_SEED", "0"))
STUDENTS = ["s00-perfect", "s00-half", "s99-blank"]
POLICY = """
[attempts]
counts = "best"

[late]
share = 0.1

[labs.lab03_lora]
due = 2023-11-14T12:00:00Z
"""
PAGE_BYTES, DISK_BYTES = 4096, 48 * 2**20
WAIT_S = 0.2


@pytest.fixture(scope="module")
def made(course: Course) -> Iterator[Class]:
    """A class whose gradebook knows the lab; one student has two attempts."""
    with hostile_runs.a_root() as root:
        made = hostile_class.build(course, root, [], STUDENTS, port=0)
        (made.course.root / FILE).write_text(POLICY)
        full, release = hostile_class.solved(course)
        for number, name in enumerate(("s00-half", "s99-blank"), 1):
            folder = made.course.root / "attempts" / LAB / "s00-half" / str(number)
            notebook = hostile_class.honest_notebook(name, full, release)
            write_notebook(folder / f"{LAB}.ipynb", notebook)
            os.utime(folder, (RECEIVED + number, RECEIVED + number))
        yield made


@pytest.fixture(scope="module")
def graders() -> Iterator[Graders]:
    made = Graders()
    yield made
    made.close()


@pytest.fixture(params=["released", "without a gradebook"])
def start(request: pytest.FixtureRequest, made: Class, tmp_path: Path) -> Class:
    """Where grading begins."""
    begun = copied(made, tmp_path / "start")
    if request.param != "released":
        begun.course.gradebook.unlink()
    return begun


def whole(graders: Graders, made: Class) -> tuple[Ended, Outcome]:
    """A run to which nothing happens, and all that it leaves."""
    ended = graders.run(made, "--jobs", "1")
    assert ended is not None
    assert (ended.code, ended.left) == (0, []), ended.printed
    return ended, Outcome.of(made)


def some_of(count: int, most: int) -> list[int]:
    """Numbers below `count`, evenly spread."""
    chosen = min(most, count)
    return sorted({(SEED + index * count // chosen) % count for index in range(chosen)})


def test_killed_at_any_step_and_run_again_it_ends_the_same(
    graders: Graders, start: Class, tmp_path: Path
) -> None:
    ended, expected = whole(graders, copied(start, tmp_path / "undisturbed"))
    unlike = ""
    for at in some_of(len(ended.steps), KILLS // 2):
        made = copied(start, tmp_path / str(at))
        killed = graders.run(made, "--jobs", "1", at=at)
        assert killed is not None
        assert (killed.code, killed.left) == (-9, []), ended.steps[at]
        hostile_faults.check_nothing_is_half_written(made)
        for found in whole(graders, made)[1].unlike(expected):
            unlike += f"killed at {at} {ended.steps[at]}: {found}\n"
    assert not unlike, unlike


def test_killed_while_sqlite_writes_it_ends_the_same(
    graders: Graders, made: Class, tmp_path: Path
) -> None:
    begun, after = copied(made, tmp_path / "start"), copied(made, tmp_path / "undisturbed")
    _, expected = whole(graders, after)
    sizes = (begun.course.gradebook.stat().st_size, after.course.gradebook.stat().st_size)
    unlike, growing = "", range(sizes[0], sizes[1], PAGE_BYTES)
    for size in (growing[index] for index in some_of(len(growing), max(KILLS // 10, 2))):
        again = copied(made, tmp_path / str(size))
        killed = graders.run(again, "--jobs", "1", file_bytes=size)
        assert killed is not None
        assert (killed.code, killed.left) == (-signal.SIGXFSZ, []), killed.printed
        for found in whole(graders, again)[1].unlike(expected):
            unlike += f"killed at {size} bytes: {found}\n"
    assert not unlike, unlike


def test_without_room_on_the_disk_it_says_so_and_goes_on_later(
    course: Course, made: Class, graders: Graders, tmp_path: Path
) -> None:
    ended, expected = whole(graders, copied(made, tmp_path / "undisturbed"))
    with small_disk(tmp_path / "disk") as inside:
        for at in some_of(len(ended.steps), max(KILLS // 3, 8)):
            own = copied(made, inside.root / str(tmp_path / "disk")[1:] / str(at))
            assert inside.run(own, "--jobs", "1", at=at, does="stop") is None
            with no_room(own.home):
                full = inside.go_on()
            assert full is not None
            if full.code:  # else what was left to write found room in what was freed
                assert_one_sentence(full, "no room|No space left|database or disk is full")
            hostile_faults.check_nothing_is_half_written(own)
            _, again = whole(inside, own)
            assert again.unlike(expected) == [], ended.steps[at]
            shutil.rmtree(own.course.root.parent)


@contextmanager
def small_disk(folder: Path) -> Iterator[Graders]:
    """Graders that see a small file system in a folder."""
    folder.mkdir()
    try:
        graders = Graders(str(folder), str(DISK_BYTES))
    except hostile_faults.NoGradersError as error:
        pytest.skip(f"no file system of one's own can be mounted here: {error}")
    try:
        yield graders
    finally:
        graders.close()


@contextmanager
def no_room(folder: Path) -> Iterator[None]:
    """Fill a file system to its last byte."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(PAGE_BYTES))
    yield
    filler.unlink()


def assert_one_sentence(ended: Ended, pattern: str) -> None:
    """It ended with status 2 and one line on stderr that says why."""
    said = [line for line in ended.printed.splitlines() if line.startswith("grader: ")]
    assert (ended.code, ended.left, len(said)) == (2, [], 1), ended.printed
    assert "Traceback" not in ended.printed, ended.printed
    assert re.search(pattern, said[0]), said[0]


LOCKED = {
    "from the beginning": "",
    "while the lab is recorded": "INSERT INTO notebook",
    "before the last student": "s99-blank.json",
}


@pytest.mark.parametrize("when", LOCKED)
def test_a_gradebook_that_stays_locked_is_one_sentence_and_loses_nothing(
    graders: Graders, made: Class, tmp_path: Path, when: str
) -> None:
    begun = copied(made, tmp_path / "start")
    if when == "while the lab is recorded":
        begun.course.gradebook.unlink()
    ended, expected = whole(graders, copied(begun, tmp_path / "undisturbed"))
    own = copied(begun, tmp_path / "locked")
    at = next(index for index, name in enumerate(ended.steps) if LOCKED[when] in name)
    options = {"at": at, "does": "stop", "busy_timeout_s": WAIT_S}
    if LOCKED[when]:
        assert graders.run(own, "--jobs", "1", **options) is None
    with closing(sqlite3.connect(own.course.gradebook)) as other:
        other.execute("BEGIN EXCLUSIVE")
        stuck = graders.go_on() if LOCKED[when] else graders.run(own, "--jobs", "1", **options)
        other.rollback()
    assert stuck is not None
    assert_one_sentence(stuck, "locked")
    hostile_faults.check_nothing_is_half_written(own)
    assert whole(graders, own)[1].unlike(expected) == []
