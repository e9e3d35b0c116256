"""How to start the runner under bubblewrap, or without isolation when that was asked for."""

import itertools
import os
import shutil
import site
import sys
from dataclasses import dataclass
from pathlib import Path

from grader.box.tier import Limits, Tier

COURSE = "/course"
SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache")
FIRST_UID, UIDS = 60_001, 900
ENVIRONMENT = {
    "HOME": "/tmp",
    "PATH": "/usr/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "agg",
}
START = "import sys; sys.path.insert(0, {path!r}); from grader.box.runner import serve; serve()"
_counter = itertools.count(os.getpid())


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """An argument list, the environment and folder to start it in, and bubblewrap's own options."""

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    options: bytes = b""
    uid: int = 0


def command(
    tier: Tier, content: Path, masked: tuple[str, ...], limits: Limits, *, drop: bool
) -> Command:
    """How to start the runner.

    Args:
        tier: Bubblewrap, or rlimits for a bare process.
        content: The folder made by `content.build`.
        masked: Top-level packages that must not be importable.
        limits: For the sizes of the private file systems.
        drop: Started by root: enter no user namespace and give root up inside.

    Raises:
        FileNotFoundError: bubblewrap is not installed.
    """
    python = [sys.executable, "-s", "-P", "-c"]
    if tier is Tier.RLIMITS:
        start = [*python, START.format(path=str(content))]
        return Command(arguments=start, environment=ENVIRONMENT, folder="/tmp")
    # The private /tmp comes first: an interpreter that lives below /tmp is bound into it.
    options = [*_namespaces(drop), *_sized(limits, "/tmp"), *_binds(content), *_masks(masked)]
    options += [*_sized(limits, "/dev/shm"), "--remount-ro", "/dev", "--remount-ro", "/"]
    options += ["--chdir", "/tmp"]
    data = b"".join(option.encode() + b"\0" for option in options)
    uid = FIRST_UID + next(_counter) % UIDS if drop else 0
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise FileNotFoundError("bubblewrap's command `bwrap` is not on the PATH")
    arguments = [bwrap, "--args", "{options_fd}", "--", *python, START.format(path=COURSE)]
    return Command(arguments=arguments, environment={}, folder="/", options=data, uid=uid)


def _namespaces(drop: bool) -> list[str]:
    options = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    options += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--clearenv"]
    options += ["--hostname", "box", "--cap-drop", "ALL"]
    if drop:
        options += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        options += ["--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534"]
    for name, value in ENVIRONMENT.items():
        options += ["--setenv", name, value]
    return options


def _interpreter() -> list[str]:
    """Folders the running interpreter needs: its environment, its base, the files they link to."""
    real = Path(os.path.realpath(sys.executable))
    folders = {Path(sys.prefix), Path(sys.base_prefix), real.parent.parent}
    folders = {folder for folder in folders if folder.parts[1:]}
    return sorted({str(folder) for folder in folders}, key=len)


def _binds(content: Path) -> list[str]:
    options: list[str] = []
    interpreter = _interpreter()
    parents = {parent for folder in interpreter for parent in Path(folder).parents}
    for parent in sorted(parents - {Path("/"), Path("/tmp")}):
        options += ["--perms", "0755", "--dir", str(parent)]
    for folder in (*SYSTEM, *interpreter):
        options += ["--ro-bind-try", folder, folder]
    options += ["--proc", "/proc", "--dev", "/dev", "--ro-bind", str(content), COURSE]
    return options


def _masks(packages: tuple[str, ...]) -> list[str]:
    """Cover installed copies of packages with empty folders: labkit, grader, what a lab forbids."""
    options: list[str] = []
    for root in site.getsitepackages():
        for package in packages:
            path = Path(root) / package
            if path.is_dir():
                options += ["--tmpfs", str(path), "--remount-ro", str(path)]
    return options


def _sized(limits: Limits, folder: str) -> list[str]:
    """A private writable file system of limited size."""
    size = str(limits.scratch_bytes)
    return ["--size", size, "--perms", "1777", "--tmpfs", folder]
