"""Runs of the grader that something happens to: `faulty_grader.py [FOLDER BYTES]` serves stdin.

A line of JSON is an order, a line of JSON the answer. Everything slow is imported once; each run is
a fork. With FOLDER, a file system of BYTES in memory lies there, for this process alone.

A step of a run is what changes files or the gradebook. At the step `at` of an order the run is
killed (`does: kill`) in the middle of it, or stopped before it (`does: stop`) until it is told to
go on. It is also killed after `after_s` seconds, `when_seen` a process of that name, or where a
file would grow over `file_bytes`. With `made_up`, answers are judged without a box.
"""

import contextlib
import hashlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

import nbgrader.api
import nbgrader.apps
import psutil
from hostile_grader import left_running, small_limits
from matplotlib.figure import Figure
from nbgrader.api import get_alembic_version
from sqlalchemy import event
from sqlalchemy.engine import Engine

from grader.box import linux
from grader.cli.main import main
from grader.course import add_tools_to_path
from grader.gradebook import opening
from grader.grading import autograde, distributed
from grader.grading.questions import Job
from grader.labs.lab03_lora import check, drive
from grader.reports import class_report, figures
from grader.results import CellResult, Status

PRELOADED = (nbgrader.apps, autograde, check, drive, class_report, figures)
CHANGES = {f"os.{name}" for name in ("rename", "remove", "mkdir", "rmdir", "utime", "link")}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
READS = ("SELECT", "PRAGMA")
HALF = b'{"half'


class MadeUp:
    """Stands for workers: judges answers by a hash of them."""

    def __init__(self, *_: object) -> None:
        pass

    def __call__(self, job: Job) -> tuple[CellResult, ...]:
        return tuple(
            CellResult(
                cell=question.cell,
                check=question.check,
                hidden=question.hidden,
                points=question.points,
                score=question.points if _passes(job, question.cell) else 0.0,
                status=Status.OK if _passes(job, question.cell) else Status.WRONG,
                message="",
                seeds=question.seeds,
                seconds=0.0,
            )
            for question in job.questions
        )


def _passes(job: Job, cell: str) -> bool:
    return hashlib.sha256(f"{job.cells} {cell}".encode()).digest()[0] % 3 > 0


class Steps:
    """Counts what changes files below some folders or the gradebook; the fault is at one step."""

    def __init__(self, folders: list[str], at: int, does: str) -> None:
        self.names: list[str] = []
        self._folders, self._at, self._does = tuple(folders), at, does
        sys.addaudithook(self._on_files)
        event.listen(Engine, "before_cursor_execute", self._on_statement)
        event.listen(Engine, "commit", lambda connection: self._step("commit"))

    def _on_files(self, name: str, arguments: tuple[Any, ...]) -> None:
        if not (name in CHANGES or (name == "open" and int(arguments[2] or 0) & WRITES)):
            return
        path = arguments[1] if name in ("os.rename", "os.link") else arguments[0]
        if isinstance(path, str | Path) and str(path).startswith(self._folders):
            self._step(f"{name} {Path(path).name}", half=str(path) if name == "open" else "")

    def _on_statement(self, *arguments: Any) -> None:
        if not (statement := arguments[2].strip()).upper().startswith(READS):
            self._step(" ".join(statement.split()[:3]))

    def _step(self, name: str, half: str = "") -> None:
        self.names.append(name)
        if len(self.names) - 1 != self._at:
            return
        if self._does == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
            return
        if half:  # killed when a part of the file was written
            fd = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.write(fd, HALF)
        os.kill(os.getpid(), signal.SIGKILL)


def _run(order: dict[str, Any]) -> NoReturn:
    """In a fork: be the grader, with what is to happen."""
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["root"])
    tempfile.tempdir = None
    tempfile.gettempdir()  # asked for anew: Python tries the folder out by a file of its own
    fd = os.open(order["printed"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    small_limits()
    if order["made_up"]:
        distributed.Remote = MadeUp
        Figure.savefig = lambda *arguments, **options: None  # drawing takes longest
    opening.BUSY_TIMEOUT_S = order["busy_timeout_s"]
    folders = [order["root"], order["environment"]["TMPDIR"]]
    if size := order["file_bytes"]:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    steps = Steps(folders, order["at"], order["does"])
    code = main(["--root", order["root"], *order["arguments"]])
    sys.stdout.flush()
    Path(order["steps"]).write_text(json.dumps(steps.names))
    os._exit(code)


def _answer(found: dict[str, Any]) -> None:
    os.write(1, json.dumps(found).encode() + b"\n")


def serve() -> None:
    """Answer each order with how its run ended, or that it stopped; then with what it left."""
    stopped = 0
    for line in sys.stdin:
        order = json.loads(line)
        if "root" in order:
            _end(stopped)
            running = os.fork() or _run(order)
        else:
            running = stopped
            os.kill(running, getattr(signal, order["signal"]))
        status = _ended(running, order)
        stopped = running if os.WIFSTOPPED(status) else 0
        if stopped:
            found: dict[str, Any] = {"stopped": True}
        else:
            found = {"code": os.waitstatus_to_exitcode(status), "left": left_running()}
        _answer(found)


def _end(stopped: int) -> None:
    """Kill a run that stopped and that nobody told to go on: a test that failed leaves it."""
    if stopped:
        os.kill(stopped, signal.SIGKILL)
        os.waitpid(stopped, 0)


def _ended(pid: int, order: dict[str, Any]) -> int:
    """The status of a run that ended or stopped; it is killed when an order says so."""
    after_s, seen = order.get("after_s"), order.get("when_seen")
    until = time.monotonic() + (float("inf") if after_s is None else after_s)
    while True:
        found, status = os.waitpid(pid, os.WUNTRACED | os.WNOHANG)
        if found:
            return status
        if time.monotonic() > until or (seen and _runs(seen)):
            os.kill(pid, signal.SIGKILL)
            until, seen = float("inf"), ""
        time.sleep(0.002)


def _runs(name: str) -> bool:
    """Whether a process that called itself so descends from this one."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.cmdline()[:1] == [name]:
                return True
    return False


def own_disk(folder: str, size: int) -> None:
    """Mount an empty file system of its own size, which no other process sees."""
    if os.geteuid():
        uid, gid = os.getuid(), os.getgid()
        linux.unshare(linux.Namespace.USER | linux.Namespace.MOUNT)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    else:
        linux.unshare(linux.Namespace.MOUNT)
    linux.mount("", "/", "", linux.Mount.RECURSIVE | linux.Mount.PRIVATE)
    linux.tmpfs(folder, size=size, inodes=10_000)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    linux.adopt_orphans()
    if sys.argv[1:]:
        own_disk(sys.argv[1], int(sys.argv[2]))
    add_tools_to_path()
    version = get_alembic_version()
    nbgrader.api.get_alembic_version = lambda: version  # a program that takes seconds to say it
    _answer({})
    serve()
