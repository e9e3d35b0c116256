"""One running box: started, fed, watched and killed from outside."""

import os
import subprocess
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

import psutil

from grader.box.bubblewrap import Command
from grader.box.tier import Limits
from grader.box.wire import Channel, ClosedError, WireError

WATCH_INTERVAL_S = 0.05
READ_BYTES = 2**16
TAIL_BYTES = 2_000
Answer = TypeVar("Answer")


class Trouble(StrEnum):
    """Why a box ended before it was asked to."""

    TIMEOUT = "TIMEOUT"
    OOM = "OOM"
    CRASH = "CRASH"
    OUTPUT_LIMIT = "OUTPUT_LIMIT"


class BoxEnded(Exception):  # noqa: N818 - an outcome, not a fault of the grader
    """The box is gone; `cell` names the cell that was running, if one was."""

    def __init__(self, trouble: Trouble, message: str, cell: str = "") -> None:
        super().__init__(message)
        self.trouble, self.message, self.cell = trouble, message, cell


class Session:
    """A box from start to kill. Use it from one thread: it dies with the thread that started it."""

    def __init__(self, command: Command, limits: Limits) -> None:
        self._limits = limits
        self._trouble: Trouble | None = None
        self._cell = ""
        self._asked = 0
        self.tail = b""
        self._process, self._channel = _start(command)
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=target, daemon=True)
            for target in (self._watch_memory, self._drain_output)
        ]
        for thread in self._threads:
            thread.start()

    def load(self, job: dict[str, Any]) -> dict[str, str]:
        """Run the job's cells; return the message of each that failed.

        Raises:
            BoxEnded: The box did not survive the cells.
        """

        def exchange() -> dict[str, str]:
            self._channel.send(job, self._limits.start_s)
            message = self._channel.receive(self._limits.start_s)
            while message.get("event") != "loaded":
                self._cell = str(message.get("id", ""))
                message = self._channel.receive(self._limits.cell_s)
            self._cell = ""
            return {str(key): str(text) for key, text in dict(message["errors"]).items()}

        return self._guarded(exchange, self._limits.cell_s)

    def ask(
        self, check: str, symbol: str, inputs: dict[str, Any], limit_s: float
    ) -> dict[str, Any]:
        """Call the student's implementation; return its `outputs` and `error`.

        Raises:
            BoxEnded: The box did not survive the call.
        """
        self._asked += 1
        question = {"id": self._asked, "check": check, "symbol": symbol, "inputs": inputs}

        def exchange() -> dict[str, Any]:
            self._channel.send(question, limit_s)
            answer = self._channel.receive(limit_s)
            if answer.get("id") != self._asked or not isinstance(answer.get("error"), str):
                raise WireError("an answer to another question")
            return answer

        return self._guarded(exchange, limit_s)

    def _guarded(self, exchange: Callable[[], Answer], limit_s: float) -> Answer:
        """Turn every way a box can end into BoxEnded with a sentence for the student."""
        try:
            return exchange()
        except TimeoutError:
            raise self._ended(Trouble.TIMEOUT, f"it ran longer than {limit_s:g} s") from None
        except ClosedError:
            self._process.wait()
            raise self._ended(Trouble.CRASH, "the process ended in the middle of it") from None
        except (WireError, KeyError, TypeError, ValueError) as error:
            raise self._ended(Trouble.CRASH, f"the answer could not be read: {error}") from None

    def _ended(self, trouble: Trouble, message: str) -> BoxEnded:
        if self._trouble is Trouble.OOM:
            mebibytes = self._limits.memory_bytes // 2**20
            return BoxEnded(Trouble.OOM, f"it used more than {mebibytes} MiB of memory", self._cell)
        if self._trouble is Trouble.OUTPUT_LIMIT:
            mebibytes = self._limits.output_bytes // 2**20
            return BoxEnded(
                Trouble.OUTPUT_LIMIT, f"it printed more than {mebibytes} MiB", self._cell
            )
        return BoxEnded(trouble, message, self._cell)

    def _stop(self, trouble: Trouble) -> None:
        if self._trouble is None:
            self._trouble = trouble
        self._process.kill()

    def _watch_memory(self) -> None:
        """Kill the box when its processes together hold more memory than allowed."""
        while not self._over.wait(WATCH_INTERVAL_S):
            try:
                tree = psutil.Process(self._process.pid).children(recursive=True)
                held = sum(process.memory_info().rss for process in tree)
            except psutil.Error:
                continue
            if held > self._limits.memory_bytes:
                self._stop(Trouble.OOM)
                return

    def _drain_output(self) -> None:
        """Read and drop what is printed, and kill the box when it is too much."""
        stream = self._process.stdout
        assert stream is not None
        printed = 0
        while part := os.read(stream.fileno(), READ_BYTES):
            printed += len(part)
            self.tail = (self.tail + part)[-TAIL_BYTES:]
            if printed > self._limits.output_bytes:
                self._stop(Trouble.OUTPUT_LIMIT)
                return

    def close(self) -> None:
        """Kill the box and everything in it, and wait until it is gone."""
        self._over.set()
        self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join()
        self._channel.close()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _start(command: Command) -> tuple[subprocess.Popen[bytes], Channel]:
    """Start the runner with two pipes and bubblewrap's options on a third."""
    box_reads, we_write = os.pipe()
    we_read, box_writes = os.pipe()
    options_fd = _options_fd(command.options)
    inside = [box_reads, box_writes, options_fd]
    arguments = [part.format(options_fd=options_fd) for part in command.arguments[:3]]
    arguments += command.arguments[3:]
    try:
        process = subprocess.Popen(
            [*arguments, str(box_reads), str(box_writes), str(command.uid)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=command.environment,
            cwd=command.folder,
            pass_fds=inside,
            start_new_session=True,
        )
    except BaseException:
        os.close(we_write)
        os.close(we_read)
        raise
    finally:
        for fd in inside:
            os.close(fd)
    return process, Channel(we_read, we_write)


def _options_fd(options: bytes) -> int:
    """A readable descriptor with bubblewrap's options: no path shows in a process list."""
    fd = os.memfd_create("options")
    os.write(fd, options)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
