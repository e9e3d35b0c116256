"""The few Linux calls Python 3.11 lacks: namespaces, mounts, capabilities, pidfds in messages."""

import ctypes
import os
from enum import IntFlag
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38
_CAPABILITY_VERSION_3 = 0x20080522
MNT_DETACH = 2
SIGKILL = 9


class Namespace(IntFlag):
    """Flags of unshare(2)."""

    MOUNT = 0x00020000
    UTS = 0x04000000
    IPC = 0x08000000
    USER = 0x10000000
    PID = 0x20000000
    NET = 0x40000000


class Mount(IntFlag):
    """Flags of mount(2)."""

    READ_ONLY = 0x1
    NO_SUID = 0x2
    NO_DEVICES = 0x4
    NO_EXECUTION = 0x8
    KEPT = 0xE
    REMOUNT = 0x20
    BIND = 0x1000
    RECURSIVE = 0x4000
    PRIVATE = 0x40000


def call(name: str, *arguments: Any) -> int:
    """Call a function of libc; OSError with its errno when it returns -1."""
    result = int(getattr(_libc, name)(*arguments))
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def system_call(number: int, *arguments: Any) -> int:
    """Make a system call that libc has no function for."""
    return call("syscall", ctypes.c_long(number), *arguments)


def prctl(option: int, *values: int) -> None:
    call("prctl", option, *(ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]))


def unshare(namespaces: Namespace) -> None:
    call("unshare", int(namespaces))


def mount(source: str, target: str, kind: str, flags: Mount, options: str = "") -> None:
    texts = [text.encode() for text in (source, target, kind)]
    call("mount", *texts, ctypes.c_ulong(flags), options.encode() or None)


def tmpfs(target: str, *, size: int, inodes: int, mode: int = 0o1777) -> None:
    """An empty file system in memory with room for so many bytes and files."""
    options = f"size={size},nr_inodes={inodes},mode={mode:o}"
    mount("tmpfs", target, "tmpfs", Mount.NO_SUID | Mount.NO_DEVICES, options)


def bind_read_only(source: str, target: str) -> None:
    """Show `source` at `target`, without the right to write."""
    mount(source, target, "", Mount.BIND | Mount.RECURSIVE)
    # A user namespace may not lift what the source's mount forbids.
    kept = Mount(os.statvfs(target).f_flag) & Mount.KEPT
    mount("", target, "", Mount.REMOUNT | Mount.BIND | Mount.READ_ONLY | kept)


def pivot_root(new_root: str) -> None:
    """Make a mounted folder the root and let go of the old one."""
    os.chdir(new_root)
    system_call(_PIVOT_ROOT[os.uname().machine], b".", b".")
    call("umount2", b".", MNT_DETACH)
    os.chdir("/")


def die_with_parent() -> None:
    prctl(_PR_SET_PDEATHSIG, SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def gain_no_privileges() -> None:
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def drop_capabilities() -> None:
    """Give up every capability of this process for good."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    call("capset", header, (ctypes.c_uint32 * 6)())
