"""Of two graders of a lab the second is sent away; one that was killed keeps nobody away."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from grader.course import Course
from grader.grading.alone import OtherGraderError, alone

LAB = "lab03_lora"
HOLDS = """
import sys
from pathlib import Path
from grader.course import Course
from grader.grading.alone import alone
with alone(Course(root=Path(sys.argv[1])), "lab03_lora"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_one_is_told_who_is_at_work_until_that_is_killed(tmp_path: Path) -> None:
    course = Course(root=tmp_path)
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(OtherGraderError, match=f"process {other.pid} is grading {LAB} already"):
            alone(course, LAB).__enter__()
        with alone(course, "lab09_generation"):
            pass
        other.kill()
    with alone(course, LAB):
        assert (course.reports(LAB) / "grading.lock").read_text() == f"{os.getpid()}\n"
    with alone(course, LAB):
        pass
