"""The grader as a program of its own, with small limits: `hostile_grader.py REPORT ARGUMENTS…`.

Runs `grader ARGUMENTS…`, then writes to REPORT, as JSON, what it left: how much memory it needed at
most and which processes still run. Everything it started and lost sight of becomes its child.
"""

import contextlib
import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil

from grader.box import linux
from grader.cli.main import main

QUESTION_S, CELL_S, SUBMISSION_S = 2.0, 3.0, 15.0
MEMORY_BYTES = 3 * 2**28
GONE_WITHIN_S = 10.0


def small_limits() -> None:
    """Let the lab be one with little time and memory."""
    from grader.box.tier import Limits
    from grader.labs.lab03_lora import check

    check.LAB = replace(
        check.LAB,
        time_limit_s=SUBMISSION_S,
        question_limit_s=QUESTION_S,
        memory_bytes=MEMORY_BYTES,
    )
    usual = Limits.of
    Limits.of = staticmethod(lambda lab: replace(usual(lab), cell_s=CELL_S))


def left_running() -> list[str]:
    """What still runs some time after everything should have ended."""
    until = time.monotonic() + GONE_WITHIN_S
    while children := psutil.Process().children(recursive=True):
        if time.monotonic() > until:
            return [name for child in children if (name := _called(child))]
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):  # another than this one has ended it
                if child.status() == psutil.STATUS_ZOMBIE:
                    child.wait()
        time.sleep(0.05)
    return []


def _called(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline()) or process.name()
    return ""


def peak_bytes() -> int:
    """The most memory this process ever held; not what it was forked from, as getrusage says."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    linux.adopt_orphans()
    if "autograde" in sys.argv:
        small_limits()
    code = main(sys.argv[2:])
    found = {"peak_bytes": peak_bytes(), "left_running": left_running()}
    Path(sys.argv[1]).write_text(json.dumps(found))
    sys.exit(code)
