"""Kill a collecting with SIGKILL before each of its steps, or at random; run it again; compare.

`python killed_collect.py FOLDER [--random N]`: prints how often it was killed, and fails if a rerun
ended otherwise than one that nobody disturbed. A step is whatever changes the file system.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import zipfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from intake_kit import LAB, whole

from grader.course import Course
from grader.intake.collection import collect
from grader.intake.options import Options
from grader.intake.roster import Roster
from grader.notebooks import Notebook, write_notebook

EVENTS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.utime", "os.chmod", "shutil.rmtree")
WRITING = os.O_WRONLY | os.O_RDWR
RELEASE: Notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}
RECEIVED = datetime(2026, 3, 2, 12, tzinfo=UTC)


def begin(folder: Path) -> tuple[Course, Path]:
    """A course with an attempt of ada's, one put in by hand since, and a source with new ones."""
    course = Course(root=folder / "course")
    for path in (course.source(LAB), course.release(LAB)):
        write_notebook(path, RELEASE)
    run(course, packed(folder / "old.zip", "old"), datetime(2026, 3, 1, tzinfo=UTC))
    shutil.rmtree(course.submitted(LAB, "ada").parent)
    write_notebook(course.submitted(LAB, "ada"), RELEASE | {"metadata": {"by": "hand"}})
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
    os.utime(course.submitted(LAB, "ada").parent, (moment, moment))
    return course, packed(folder / "new.zip", "new")


def packed(path: Path, text: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for student in ("ada", "ben"):
            book = json.dumps(RELEASE | {"metadata": {"by": text + student}})
            archive.writestr(f"{student}/{LAB}.ipynb", book)
            archive.writestr(f"{student}/data/x.csv", text)
    return path


def run(course: Course, source: Path, received: datetime = RECEIVED) -> None:
    collect(course, LAB, source, Roster(), Options(received=received))


def killed(course: Course, source: Path, step: int) -> bool:
    """Collect in a process that kills itself before its step of this number, if it comes to it."""
    child = os.fork()
    if child == 0:
        left = [step]

        def count(event: str, arguments: tuple) -> None:
            if event in EVENTS or (event == "open" and arguments[2] & WRITING):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        run(course, source)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def killed_at_random(course: Course, source: Path, within_s: float) -> bool:
    child = os.fork()
    if child == 0:
        run(course, source)
        os._exit(0)
    time.sleep(random.uniform(0, within_s))
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def main(folder: Path, times: int = 0) -> None:
    started = time.monotonic()
    course, source = begin(folder / "undisturbed")
    begun = time.monotonic()
    run(course, source)
    expected, within_s = whole(course.root), time.monotonic() - begun
    kills = step = 0
    while time.monotonic() - started < 300:
        step += 1
        shutil.rmtree(folder / "disturbed", ignore_errors=True)
        course, source = begin(folder / "disturbed")
        if times and kills == times:
            break
        if times:
            kills += killed_at_random(course, source, within_s)
        elif killed(course, source, step):
            kills += 1
        else:
            break
        run(course, source)
        found = whole(course.root)
        other = [path for path in {*found, *expected} if found.get(path) != expected.get(path)]
        assert not other, f"killed before step {step} it ends otherwise: {sorted(other)}"
    sys.stdout.write(f"killed {kills} times, the same each time\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[3]) if len(sys.argv) > 2 else 0)
