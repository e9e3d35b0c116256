"""The grader's end of the process that boxes are forked from: start it, fork a box, end both."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from grader.box.wire import Channel

START = "import sys; sys.path.insert(0, {path!r}); from grader.box.zygote import start; start()"
MESSAGE_BYTES = 2**16
TAIL_BYTES = 2_000


class NoBoxError(OSError):
    """The process that boxes are forked from is gone or cannot make one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """A forked box: its pipes, its output, and a descriptor that stands for its first process."""

    channel: Channel
    output_fd: int
    pidfd: int

    @property
    def pid(self) -> int:
        """Its process identifier as seen from here; 0 or less when it is gone."""
        with open(f"/proc/self/fdinfo/{self.pidfd}") as file:
            return next(int(line[4:]) for line in file if line.startswith("Pid:"))

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def wait(self) -> None:
        """Wait until it has ended."""
        waiting = select.poll()
        waiting.register(self.pidfd, select.POLLIN)
        waiting.poll()

    def close(self) -> None:
        self.channel.close()
        for fd in (self.output_fd, self.pidfd):
            os.close(fd)


class Zygote:
    """Forks boxes on request, for many threads one after another."""

    def __init__(
        self,
        command: list[str],
        options: list[str],
        *,
        path: str,
        order: dict[str, Any],
        environment: dict[str, str],
        limit_s: float,
    ) -> None:
        """Start it and wait until its imports are done.

        Args:
            command: What to start Python under, bubblewrap or nothing.
            options: More of that command, not shown in any list of processes.
            path: Where grader and labkit lie in its view.
            order: Its first message: plan, drive, imports.
            environment: All variables it has.
            limit_s: Seconds for starting, and for each fork.

        Raises:
            NoBoxError: It did not start.
        """
        self._lock = threading.Lock()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(limit_s)
        self._control = ours
        hidden = [_memory_file(options)] if command else []
        python = [sys.executable, "-s", "-P", "-c", START.format(path=path), str(theirs.fileno())]
        before = [*command, *(str(fd) for fd in hidden), "--"] if command else []
        try:
            self._process = subprocess.Popen(
                [*before, *python],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment,
                cwd="/",
                pass_fds=[theirs.fileno(), *hidden],
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            for fd in hidden:
                os.close(fd)
        try:
            self._exchange(json.dumps(order).encode(), [])
        except NoBoxError:
            self.close()
            raise

    def fork(self, uid: int, limits: dict[str, int]) -> Child:
        """Fork a box.

        Args:
            uid: Whom its process becomes; 0 to stay who it is.
            limits: Resource limits by their RLIMIT_ names.

        Raises:
            NoBoxError: It could not be made.
        """
        box_reads, we_write = os.pipe()
        we_read, box_writes = os.pipe()
        output_fd, box_prints = os.pipe()
        inside = [box_reads, box_writes, box_prints]
        request = json.dumps({"uid": uid, "limits": limits}).encode()
        try:
            with self._lock:
                [pidfd] = self._exchange(request, inside)
        except BaseException:
            for fd in (we_write, we_read, output_fd):
                os.close(fd)
            raise
        finally:
            for fd in inside:
                os.close(fd)
        return Child(channel=Channel(we_read, we_write), output_fd=output_fd, pidfd=pidfd)

    def _exchange(self, message: bytes, fds: list[int]) -> list[int]:
        """Send a message and return the descriptors of the answer."""
        try:
            socket.send_fds(self._control, [message], fds)
            data, got, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 1)
        except OSError as error:
            raise NoBoxError(self._why(str(error))) from None
        if not data:
            raise NoBoxError(self._why("its process ended"))
        if problem := json.loads(data).get("error"):
            raise NoBoxError(problem)
        return list(got)

    def _why(self, otherwise: str) -> str:
        """The last line that the process or bubblewrap printed, if it has ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        assert self._process.stderr is not None
        os.set_blocking(self._process.stderr.fileno(), False)
        printed = (self._process.stderr.read() or b"")[-TAIL_BYTES:]
        lines = printed.decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), otherwise)

    def close(self) -> None:
        """End it and every box it forked, and wait until they are gone."""
        self._control.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()


def _memory_file(options: list[str]) -> int:
    """A readable descriptor with options: no path shows in a list of processes."""
    fd = os.memfd_create("options")
    os.write(fd, b"".join(option.encode() + b"\0" for option in options))
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
