"""bubblewrap's options for the process that boxes are forked from."""

import shutil
from pathlib import Path

from grader.box.tier import Limits
from grader.box.view import SYSTEM, covered, interpreter

COURSE = "/course"


def arguments(
    content: Path,
    masked: tuple[str, ...],
    limits: Limits,
    environment: dict[str, str],
    *,
    root: bool,
) -> tuple[list[str], list[str]]:
    """bubblewrap's command and its options, which are handed over apart from the command line.

    Args:
        content: The folder made by `content.build`; seen as COURSE.
        masked: Top-level packages that must not be importable.
        limits: For the sizes of the private file systems.
        environment: All variables there are inside.
        root: Started by root: keep the rights to make namespaces and to become another user.

    Raises:
        FileNotFoundError: bubblewrap is not installed.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise FileNotFoundError("bubblewrap's command `bwrap` is not on the PATH")
    # The private /tmp comes first: an interpreter that lives below /tmp is bound into it.
    options = [*_namespaces(root), *_sized(limits, "/tmp"), *_binds(content), *_masks(masked)]
    options += [*_sized(limits, "/dev/shm"), "--remount-ro", "/dev", "--remount-ro", "/"]
    for name, value in environment.items():
        options += ["--setenv", name, value]
    return [bwrap, "--args"], [*options, "--chdir", "/tmp"]


def _namespaces(root: bool) -> list[str]:
    options = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    options += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--clearenv"]
    options += ["--hostname", "box", "--cap-drop", "ALL"]
    if root:
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SYS_ADMIN"):
            options += ["--cap-add", capability]
        return options
    return [*options, "--unshare-user", "--uid", "65534", "--gid", "65534"]


def _binds(content: Path) -> list[str]:
    options: list[str] = []
    folders = interpreter()
    parents = {parent for folder in folders for parent in Path(folder).parents}
    for parent in sorted(parents - {Path("/"), Path("/tmp")}):
        options += ["--perms", "0755", "--dir", str(parent)]
    for folder in (*SYSTEM, *folders):
        options += ["--ro-bind-try", folder, folder]
    return [*options, "--proc", "/proc", "--dev", "/dev", "--ro-bind", str(content), COURSE]


def _masks(packages: tuple[str, ...]) -> list[str]:
    """Cover packages with empty folders."""
    options: list[str] = []
    for path in covered(packages):
        options += ["--tmpfs", path, "--remount-ro", path]
    return options


def _sized(limits: Limits, folder: str) -> list[str]:
    """A private writable file system of limited size."""
    return ["--size", str(limits.scratch_bytes), "--perms", "1777", "--tmpfs", folder]
