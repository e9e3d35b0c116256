"""The grader's end of the process that boxes are forked from: start it, fork a box, end both."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grader.box.wire import Channel

START = "import sys; sys.path.insert(0, {path!r}); from grader.box.zygote import start; start()"
MESSAGE_BYTES = 2**16
TAIL_BYTES = 2_000
ACCEPT_S, CLOSING_S = 0.2, 5.0


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Launched:
    """A process that boxes will be forked from, just started.

    Attributes:
        process: It, or the program that holds it.
        control: The socket to it.
        removal: A command that ends it for certain; empty where killing `process` does.
    """

    process: "subprocess.Popen[bytes]"
    control: socket.socket
    removal: tuple[str, ...] = ()


def launch(
    command: list[str], options: list[str], path: str, environment: dict[str, str]
) -> Launched:
    """Start it as a child of this process.

    Args:
        command: What to start Python under, bubblewrap or nothing.
        options: More of that command, not shown in any list of processes.
        path: Where grader and labkit lie in its view.
        environment: All variables it has.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    hidden = [_memory_file(options)] if command else []
    before = [*command, *(str(fd) for fd in hidden), "--"] if command else []
    inside = [theirs.fileno(), *hidden]
    try:
        process = _started([*before, *_python(path, str(theirs.fileno()))], environment, inside)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        for fd in hidden:
            os.close(fd)
    return Launched(process=process, control=ours)


def launch_container(
    command: list[str], removal: list[str], path: str, sockets: Path, seen_as: str, limit_s: float
) -> Launched:
    """Start it in a container, which descriptors do not enter: it connects to a socket by path.

    Args:
        command: Runs a container.
        removal: Removes it.
        path: Where grader and labkit lie in its view.
        sockets: An empty folder for the socket.
        seen_as: That folder in the container's view.
        limit_s: Seconds to wait for the connection.

    Raises:
        NoBoxError: The container did not start.
    """
    place = sockets / "control"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as waiting:
        _bind(waiting, place)
        waiting.listen(1)
        process = _started([*command, *_python(path, f"{seen_as}/control")], dict(os.environ), [])
        deadline = time.monotonic() + limit_s
        waiting.settimeout(ACCEPT_S)
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(TimeoutError):
                control, _ = waiting.accept()
                return Launched(process=process, control=control, removal=tuple(removal))
    process.kill()
    raise NoBoxError(last_line(process, "the container did not start"))


def _bind(waiting: socket.socket, place: Path) -> None:
    """Give a socket a path that may be longer than the 108 bytes of a socket's address."""
    folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        waiting.bind(f"/proc/self/fd/{folder}/{place.name}")
    finally:
        os.close(folder)
    place.chmod(0o777)


def _python(path: str, control: str) -> list[str]:
    return [sys.executable, "-s", "-P", "-c", START.format(path=path), control]


def _started(
    command: list[str], environment: dict[str, str], fds: list[int]
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        cwd="/",
        pass_fds=fds,
        start_new_session=True,
    )


def last_line(process: "subprocess.Popen[bytes]", otherwise: str) -> str:
    """The last line that an ended process printed on stderr."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(1.0)
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    printed = (process.stderr.read() or b"")[-TAIL_BYTES:]
    lines = printed.decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), otherwise)


class Zygote:
    """Forks boxes on request, for many threads one after another."""

    def __init__(self, launched: Launched, order: dict[str, Any], limit_s: float) -> None:
        """Wait until its imports are done.

        Args:
            launched: The process.
            order: Its first message: plan, drive, imports.
            limit_s: Seconds for starting, and for each fork.

        Raises:
            NoBoxError: It did not start.
        """
        self._lock = threading.Lock()
        self._launched, self._control = launched, launched.control
        self._control.settimeout(limit_s)
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
            raise NoBoxError(last_line(self._launched.process, str(error))) from None
        if not data:
            raise NoBoxError(last_line(self._launched.process, "its process ended"))
        if problem := json.loads(data).get("error"):
            raise NoBoxError(problem)
        return list(got)

    def close(self) -> None:
        """End it and every box it forked, and wait until they are gone."""
        process = self._launched.process
        self._control.close()
        try:
            process.wait(CLOSING_S)
        except subprocess.TimeoutExpired:
            if self._launched.removal:
                subprocess.run(self._launched.removal, capture_output=True, check=False)
            process.kill()
            process.wait()
        if process.stderr is not None:
            process.stderr.close()


def _memory_file(options: list[str]) -> int:
    """A readable descriptor with options: no path shows in a list of processes."""
    fd = os.memfd_create("options")
    os.write(fd, b"".join(option.encode() + b"\0" for option in options))
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
