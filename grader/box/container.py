"""Options of Docker or Podman for a container that holds one box: an empty image, read-only views.

Nothing is downloaded: the image is an empty archive, imported once, and the interpreter, the system
libraries and the course are bound into it, so the container runs on the machine that grades.
"""

import io
import os
import secrets
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path

from grader.box.isolation import NOBODY
from grader.box.tier import Limits
from grader.box.view import SYSTEM, covered, interpreter

COURSE, SOCKETS = "/course", "/sockets"
IMAGE = "llm-engineering-lab-empty"
PROGRAMS = ("docker", "podman")
VARIABLE = "GRADER_CONTAINER"
SPARE_BYTES = 512 * 2**20


def program() -> list[str]:
    """The command that runs containers: GRADER_CONTAINER's, Docker or Podman.

    Raises:
        FileNotFoundError: There is none.
    """
    if chosen := os.environ.get(VARIABLE):
        return shlex.split(chosen)
    found = next((name for name in PROGRAMS if shutil.which(name)), None)
    if found is None:
        raise FileNotFoundError(
            f"neither {' nor '.join(PROGRAMS)} is on the PATH, and {VARIABLE} names no other"
        )
    return [found]


def make_image(runs: list[str]) -> None:
    """Import the empty image if it is not there.

    Raises:
        OSError: The program could not import it.
    """
    known = [*runs, "image", "inspect", IMAGE]
    if subprocess.run(known, capture_output=True, check=False).returncode == 0:
        return
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w"):
        pass
    done = subprocess.run(
        [*runs, "import", "-", IMAGE], input=archive.getvalue(), capture_output=True, check=False
    )
    if done.returncode:
        raise OSError(f"{runs[0]} import: {done.stderr.decode(errors='replace').strip()[-300:]}")


def arguments(
    runs: list[str],
    content: Path,
    sockets: Path,
    empty: Path,
    masked: tuple[str, ...],
    limits: Limits,
    environment: dict[str, str],
) -> tuple[list[str], list[str]]:
    """The command that runs a container, and the one that removes it.

    Args:
        runs: From `program`.
        content: The folder made by `content.build`; seen as COURSE.
        sockets: The folder with the socket of the process inside; seen as SOCKETS.
        empty: An empty folder, to cover what must not be seen.
        masked: Top-level packages that must not be importable.
        limits: Memory, processes, sizes of private file systems.
        environment: All variables there are inside.
    """
    name = f"grader-{secrets.token_hex(8)}"
    options = ["run", "--rm", "--name", name, "--network", "none", "--read-only"]
    options += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    options += ["--user", f"{NOBODY}:{NOBODY}", "--workdir", "/tmp", "--hostname", "box"]
    options += ["--memory", str(limits.memory_bytes + SPARE_BYTES)]
    options += ["--pids-limit", str(limits.processes)]
    options += ["--ulimit", "nofile=1024:1024", "--ulimit", f"nproc={2**15}:{2**15}"]
    options += ["--shm-size", str(limits.scratch_bytes)]
    options += ["--tmpfs", f"/tmp:rw,size={limits.scratch_bytes},mode=1777"]
    for path in (*SYSTEM, *interpreter()):
        if os.path.exists(path):
            options += ["--volume", f"{os.path.realpath(path)}:{path}:ro"]
    options += ["--volume", f"{content}:{COURSE}:ro", "--volume", f"{sockets}:{SOCKETS}"]
    for path in covered(masked):
        options += ["--volume", f"{empty}:{path}:ro"]
    for key, value in environment.items():
        options += ["--env", f"{key}={value}"]
    return [*runs, *options, IMAGE], [*runs, "rm", "--force", name]
