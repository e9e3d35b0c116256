"""How a process forked for one submission leaves everything else behind, tier by tier.

`Plan` comes from outside. `enter` runs in a process that then forks: the fork is the first process
of a namespace of its own. `settle` runs in that fork and is the last trusted code there.
"""

import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from grader.box import linux, lockdown
from grader.box.linux import Mount, Namespace

OWN = Namespace.MOUNT | Namespace.PID | Namespace.IPC | Namespace.NET | Namespace.UTS
NOBODY = 65534
SCRATCH_INODES = 4096
WRITABLE = ("/tmp", "/dev/shm")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


class Depth(StrEnum):
    """How far a box is from the machine it runs on."""

    NESTED = "nested"  # inside bubblewrap's view: private namespaces, /tmp and /proc
    OWN_ROOT = "own-root"  # private namespaces and a root file system made here
    BARE = "bare"  # the machine's own view, less what Landlock and seccomp deny


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What every box of a lab has in common.

    Attributes:
        depth: What separates it.
        root: The process that forks boxes is root: it needs no user namespace.
        scratch_bytes: Room in each private file system.
        read: Paths a box may read: the new root's content, or what Landlock allows.
        covered: Folders to hide below them.
        folder: An empty folder: where the new root is built, or where bare boxes may write.
    """

    depth: Depth
    root: bool
    scratch_bytes: int
    read: tuple[str, ...]
    covered: tuple[str, ...]
    folder: str

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Plan":
        lists = {name: tuple(fields[name]) for name in ("read", "covered")}
        return cls(**fields | lists | {"depth": Depth(fields["depth"])})


def enter(plan: Plan) -> None:
    """Leave the namespaces of the caller; the process identifiers' one is entered by forking."""
    if plan.depth is Depth.BARE:
        return
    _unshare(OWN, plan)


def below_one_parent(plan: Plan) -> None:
    """Put the calling process, and all boxes it will fork, where they die when its parent dies."""
    _unshare(Namespace.PID, plan)
    child = os.fork()
    if child:
        linux.die_with_parent()
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    linux.die_with_parent()


def _unshare(namespaces: Namespace, plan: Plan) -> None:
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(namespaces if plan.root else namespaces | Namespace.USER)
    if not plan.root:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{NOBODY} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{NOBODY} {gid} 1")


def settle(plan: Plan, uid: int, limits: dict[str, int]) -> None:
    """In this order: own file systems, another user, no capabilities, limits, Landlock, seccomp.

    Args:
        plan: Of all boxes.
        uid: Whom to become; 0 to stay who we are.
        limits: For `lockdown.limit`.
    """
    scratch = "/tmp"
    if plan.depth is Depth.BARE:
        scratch = _own_folder(plan)
    else:
        linux.mount("", "/", "", Mount.RECURSIVE | Mount.PRIVATE)
        _own_root(plan) if plan.depth is Depth.OWN_ROOT else _own_folders(plan)
    with suppress(OSError):  # where memory runs out, this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000")
    if uid:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(uid, uid, uid)
    linux.drop_capabilities()
    os.environ |= {"HOME": scratch, "TMPDIR": scratch}
    os.chdir(scratch)
    lockdown.limit(limits)
    bare = plan.depth is Depth.BARE
    read = (*plan.read, "/proc", *DEVICES) if bare else ("/",)
    write = (scratch, "/dev/null") if bare else (*WRITABLE, *DEVICES)
    lockdown.restrict_paths(read, write)
    lockdown.deny_system_calls()


def _own_folder(plan: Plan) -> str:
    return tempfile.mkdtemp(dir=plan.folder)


def _own_folders(plan: Plan) -> None:
    """Cover the writable folders with empty ones; what must be read below them stays."""
    for folder in WRITABLE:
        inside = [path for path in plan.read if path.startswith(f"{folder}/")]
        held = {path: os.open(path, os.O_PATH) for path in inside if os.path.exists(path)}
        linux.tmpfs(folder, size=plan.scratch_bytes, inodes=SCRATCH_INODES)
        for path, fd in held.items():
            _show(f"/proc/self/fd/{fd}", path)
            os.close(fd)
    _own_processes("/proc")


def _own_root(plan: Plan) -> None:
    """Build a root of read-only views in a file system in memory and move into it."""
    root = plan.folder
    linux.tmpfs(root, size=2**20, inodes=SCRATCH_INODES, mode=0o755)
    for folder in ("/proc", *WRITABLE):
        Path(root + folder).mkdir(parents=True)
    for folder in WRITABLE:
        linux.tmpfs(root + folder, size=plan.scratch_bytes, inodes=SCRATCH_INODES)
    for path in plan.read:
        if os.path.exists(path):
            _show(path, root + path)
    for path in DEVICES:
        Path(root + path).touch()
        linux.mount(path, root + path, "", Mount.BIND)
    for path in plan.covered:
        linux.tmpfs(root + path, size=2**12, inodes=1, mode=0o555)
    _own_processes(f"{root}/proc")
    linux.pivot_root(root)
    linux.mount("", "/", "", Mount.REMOUNT | Mount.BIND | Mount.READ_ONLY)


def _show(source: str, target: str) -> None:
    """Bind a file or folder read-only, at a path that is made."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        Path(target).touch()
    linux.bind_read_only(source, target)


def _own_processes(folder: str) -> None:
    """A /proc that shows this box alone; none where a container hides parts of its own."""
    try:
        linux.mount("proc", folder, "proc", Mount.NO_SUID | Mount.NO_DEVICES | Mount.NO_EXECUTION)
    except PermissionError:
        linux.tmpfs(folder, size=2**12, inodes=1, mode=0o555)
