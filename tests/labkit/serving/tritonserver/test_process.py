"""The server's process starts, tells why it cannot, and leaves nothing behind."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from labkit.runtime.errors import MissingDependencyError
from labkit.serving.tritonserver import process

MODEL = """
class TritonPythonModel:
    def execute(self, requests):
        return []
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model that imports nothing."""
    folder = tmp_path / "repository" / "empty"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(MODEL)
    (folder / "config.pbtxt").write_text('name: "empty"\nbackend: "python"\n')
    return tmp_path / "repository"


def group(pid: int) -> list[str]:
    """Names of the live processes in a server's process group."""
    names = []
    for one in psutil.process_iter(["name", "status"]):
        try:
            if os.getpgid(one.pid) == pid and one.info["status"] != psutil.STATUS_ZOMBIE:
                names.append(one.info["name"])
        except ProcessLookupError:
            continue
    return names


def shared_memory() -> list[str]:
    return sorted(path.name for path in Path("/dev/shm").glob("labkit-triton-*"))


def test_free_ports_differ_and_can_be_bound():
    ports = process.free_ports(3)
    assert len(set(ports)) == 3
    for port in ports:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", port))


def test_absent_server_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="make tritonserver"):
        process.installation()


def test_models_find_this_python_first(monkeypatch):
    monkeypatch.setenv("PATH", "/elsewhere")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    environment = process.environment()
    assert environment["PATH"] == f"{Path(sys.executable).parent}:/elsewhere"
    assert not environment["LD_LIBRARY_PATH"].endswith(":")


@pytest.mark.tritonserver
@pytest.mark.parametrize("end", ["leave", "raise", "kill"])
def test_nothing_is_left_behind(repository, tmp_path, end):
    before = shared_memory()
    try:
        with process.running(repository, tmp_path / "log") as server:
            assert process.is_ready(server)
            names = group(server.pid)
            assert "tritonserver" in names
            assert any(name.startswith("triton_python") for name in names)
            assert len(shared_memory()) > len(before)
            if end == "kill":
                os.kill(server.pid, signal.SIGKILL)
            if end == "raise":
                raise KeyError(end)
    except KeyError:
        assert end == "raise"
    assert group(server.pid) == []
    assert shared_memory() == before
    assert not process.is_ready(server)


OWNER = """
import sys
from pathlib import Path
from labkit.serving.tritonserver import process
with process.running(Path(sys.argv[1]), Path(sys.argv[2])) as server:
    print(server.pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.tritonserver
def test_server_ends_when_its_owner_is_killed(repository, tmp_path):
    before = shared_memory()
    arguments = [sys.executable, "-c", OWNER, str(repository), str(tmp_path / "log")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        pid = int(owner.stdout.readline())
        assert "tritonserver" in group(pid)
        owner.kill()
    while group(pid):
        time.sleep(0.05)
    assert shared_memory() == before


@pytest.mark.tritonserver
def test_model_that_cannot_load_is_told_with_its_reason(repository, tmp_path):
    (repository / "empty" / "1" / "model.py").write_text("import no_such_module\n")
    before = shared_memory()
    with (
        pytest.raises(
            process.ServerError, match=r"(?s)exited with 1.*No module named 'no_such_module'"
        ),
        process.running(repository, tmp_path / "log"),
    ):
        pass
    assert shared_memory() == before


@pytest.mark.tritonserver
def test_server_that_is_not_ready_in_time_is_stopped(repository, tmp_path):
    (repository / "empty" / "1" / "model.py").write_text("while True: pass\n")
    before = shared_memory()
    with (
        pytest.raises(process.ServerError, match=r"was not ready within 0\.5 s"),
        process.running(repository, tmp_path / "log", ready_s=0.5, exit_s=1),
    ):
        pass
    assert shared_memory() == before
    assert not [
        one.pid
        for one in psutil.process_iter(["cmdline"])
        if str(repository) in " ".join(one.info["cmdline"] or [])
    ]
