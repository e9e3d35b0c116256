"""The process that boxes are forked from: it has imported what submissions need, and runs nothing.

It takes requests on a socket: three descriptors and whom to become. It answers each with a
descriptor of the process that was forked, which is all that the grader needs to watch and end it.
"""

import gc
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from typing import Any, NoReturn

from grader.box import isolation, linux, runner
from grader.box.isolation import Depth, Plan
from grader.box.wire import Channel

MESSAGE_BYTES = 2**16
TICK_S = 0.1


def main() -> None:
    """Serve the socket named on the command line until its other end closes."""
    control = _control(sys.argv[1])
    order = json.loads(control.recv(MESSAGE_BYTES))
    plan = Plan.from_json(order["plan"])
    if plan.depth is Depth.OWN_ROOT:
        isolation.below_one_parent(plan)
    drives = importlib.import_module(order["drive"]).DRIVES
    for name in order["imports"]:
        with suppress(ImportError):
            importlib.import_module(name)
    linux.adopt_orphans()
    gc.collect()
    gc.freeze()
    control.send(b"{}")
    control.settimeout(TICK_S)
    _serve(control, plan, drives)


def _control(place: str) -> socket.socket:
    """The socket with this descriptor, or connected to this path."""
    if place.isdigit():
        return socket.socket(fileno=int(place))
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.connect(place)
    return made


def _serve(control: socket.socket, plan: Plan, drives: dict[str, Any]) -> None:
    bare: set[int] = set()
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 3)
        except TimeoutError:
            _reap(plan, bare)
            continue
        if not data:
            _end(bare)
        child = os.fork()
        if child == 0:
            _fork_box(control, plan, drives, json.loads(data), fds)
        for fd in fds:
            os.close(fd)
        if plan.depth is Depth.BARE:
            bare.add(child)
        else:
            os.waitpid(child, 0)
        _reap(plan, bare)


def _fork_box(
    control: socket.socket,
    plan: Plan,
    drives: dict[str, Any],
    request: dict[str, Any],
    fds: list[int],
) -> NoReturn:
    """In the forked process: become the box, or say why that could not be."""
    try:
        isolation.enter(plan)
        if plan.depth is not Depth.BARE and os.fork():
            os._exit(0)
        socket.send_fds(control, [b"{}"], [os.pidfd_open(os.getpid())])
    except OSError as error:
        control.send(json.dumps({"error": str(error)}).encode())
        os._exit(1)
    try:
        control.close()
        channel = _only(fds)
        isolation.settle(plan, request["uid"], request["limits"])
        runner.serve(channel, drives)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(1)


def _only(fds: list[int]) -> Channel:
    """Keep the three descriptors that came with the request and close all others."""
    read_fd, write_fd, output_fd = fds
    os.setsid()
    for target in (1, 2):
        os.dup2(output_fd, target)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    first, second = sorted((read_fd, write_fd))
    os.closerange(3, first)
    os.closerange(first + 1, second)
    os.closerange(second + 1, os.sysconf("SC_OPEN_MAX"))
    return Channel(read_fd, write_fd)


def _reap(plan: Plan, bare: set[int]) -> None:
    """Collect ended processes; without a namespace that ends them, end what boxes left behind."""
    with suppress(ChildProcessError):
        while ended := os.waitpid(-1, os.WNOHANG)[0]:
            bare.discard(ended)
    if plan.depth is Depth.BARE:
        for stray in _children() - bare:
            with suppress(ProcessLookupError):
                os.kill(stray, signal.SIGKILL)


def _children() -> set[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return {int(pid) for pid in file.read().split()}


def _end(bare: set[int]) -> NoReturn:
    """The grader is gone: so is everything here."""
    bare.clear()
    while children := _children():
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)
    os._exit(0)


def start() -> None:
    """Run `main`, and end the process with a trace on stderr if it fails."""
    try:
        main()
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(1)
