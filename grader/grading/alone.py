"""One grader of a lab at a time: two would write each other's files in `reports/<lab>/`."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from grader.course import Course

LOCK = "grading.lock"


class OtherGraderError(OSError):
    """Another grader is grading this lab; the message says which process."""


@contextmanager
def alone(course: Course, lab: str) -> Iterator[None]:
    """Keep every other grader from a lab; a grader that is killed keeps nobody away.

    Raises:
        OtherGraderError: Another one is at work; nothing was changed.
    """
    path = course.reports(lab) / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise OtherGraderError(
                f"process {file.read().strip() or '?'} is grading {lab} already: wait until it has "
                "ended, then run the command again"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
