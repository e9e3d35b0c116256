"""The server's process: found, started on free ports, awaited, stopped with nothing left."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from labkit.runtime.errors import MissingDependencyError

_HOST = "127.0.0.1"
_SHARED_MEMORY = Path("/dev/shm")
_POLL_S = 0.05
_GONE_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A server that is ready.

    Attributes:
        http, grpc, metrics: host:port of each.
        pid: Of `tritonserver`, which leads a process group of its own.
        log: What it and the models print.
    """

    http: str
    grpc: str
    metrics: str
    pid: int
    log: Path


class ServerError(RuntimeError):
    """The server did not become ready; the message has the errors in its log."""


def installation() -> Path:
    """The folder of the installed package that holds `bin`, `backends` and the stubs.

    Raises:
        MissingDependencyError: nvidia-pytriton is not installed, or has no stub for this Python.
    """
    spec = importlib.util.find_spec("pytriton")
    for folder in (spec and spec.submodule_search_locations) or ():
        found = Path(folder) / "tritonserver"
        if (found / "backends" / "python" / "triton_python_backend_stub").is_file():
            return found
    raise MissingDependencyError(
        "Triton Inference Server is not in this environment: `make tritonserver` makes "
        ".venv-tritonserver, whose Python has it"
    )


def environment() -> dict[str, str]:
    """This process's, so changed that the models' Python is this one, with the same packages.

    A model runs in a stub that embeds Python: it loads libpython, takes no PYTHONPATH, and sees the
    packages of the environment whose `python3` comes first on PATH.
    """
    folders = {
        "PATH": str(Path(sys.executable).parent),
        "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
    }
    changed = {
        name: os.pathsep.join(filter(None, [folder, os.environ.get(name)]))
        for name, folder in folders.items()
    }
    return {**os.environ, **changed}


@contextmanager
def running(
    repository: Path, log: Path, *, ready_s: float = 120.0, exit_s: int = 5
) -> Iterator[Server]:
    """Run a server on a model repository for the length of a `with` block.

    It also ends when the thread that started it does, by whatever death.

    Args:
        repository: Its models are all loaded at the start.
        log: File for what server and models print.
        ready_s: Most seconds until every model is loaded.
        exit_s: Most seconds at the end for requests under way.

    Raises:
        MissingDependencyError: It is not installed.
        ServerError: It did not become ready in time, or exited (a model could not be loaded).
    """
    prefix = f"labkit-triton-{uuid.uuid4().hex[:12]}"
    http, grpc, metrics = free_ports(3)
    command = [
        *("setpriv", "--pdeathsig", "TERM"),  # it ends with us, even if we are killed
        str(installation() / "bin" / "tritonserver"),
        f"--model-repository={repository.resolve()}",
        f"--backend-directory={installation() / 'backends'}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        *(f"--{name}-address={_HOST}" for name in ("http", "grpc", "metrics")),
        f"--http-port={http}",
        f"--grpc-port={grpc}",
        f"--metrics-port={metrics}",
        f"--exit-timeout-secs={exit_s}",
    ]
    with ExitStack() as stack:
        output = stack.enter_context(log.open("wb"))
        stack.callback(_remove_shared_memory, prefix)
        process = subprocess.Popen(
            command,
            cwd=repository,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        stack.callback(_stop, process, exit_s + 5)
        server = Server(
            http=f"{_HOST}:{http}",
            grpc=f"{_HOST}:{grpc}",
            metrics=f"{_HOST}:{metrics}",
            pid=process.pid,
            log=log,
        )
        _await_ready(process, server, ready_s)
        yield server


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now; they are not kept for the caller."""
    with ExitStack() as stack:
        bound = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in bound:
            one.bind((_HOST, 0))
        return [one.getsockname()[1] for one in bound]


def is_ready(server: Server) -> bool:
    """Whether the server answers and all its models are loaded."""
    try:
        with urllib.request.urlopen(f"http://{server.http}/v2/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _await_ready(process: subprocess.Popen[bytes], server: Server, ready_s: float) -> None:
    deadline = time.monotonic() + ready_s
    while not is_ready(server):
        code = process.poll()
        if code is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            continue
        what = f"was not ready within {ready_s:g} s" if code is None else f"exited with {code}"
        raise ServerError(f"tritonserver {what}; {server.log} says: {_errors(server.log)}")


def _errors(log: Path) -> str:
    """Its lines of level E and the models' own last words, which are few among Triton's tables."""
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(line for line in lines if re.match(r"E\d{4} |\w*[Ee]rror: ", line))[-3000:]


def _stop(process: subprocess.Popen[bytes], exit_s: int) -> None:
    """End the server politely, then it and its models' processes in any case."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(exit_s)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + _GONE_S
    while _group_exists(process.pid) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _group_exists(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _remove_shared_memory(prefix: str) -> None:
    """What the Python backend leaves behind when it is killed."""
    for region in _SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)
