"""Takes from the process what no answer needs, one way: Landlock, seccomp, resource limits.

Landlock restricts paths, TCP and signals; seccomp denies system calls. Both are inherited by every
child and cannot be undone. Constants: linux/landlock.h, linux/seccomp.h, linux/filter.h.
"""

import ctypes
import errno
import os
import resource
import struct
from collections.abc import Iterable

from grader.box.linux import gain_no_privileges, prctl, system_call

# System calls by number on x86_64 and aarch64; None where the machine has none.
DENIED = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "init_module": (175, 105),
    "io_uring_setup": (425, 425),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "semget": (64, 190),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "shmget": (29, 194),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
CLONE, CLONE3, SOCKET = (56, 220), (435, 435), (41, 198)
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
X32_BIT = 0x40000000
NEW_NAMESPACES = 0x7E020080
AF_UNIX = 1

LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
ALL_BUT_LATER = 0x1FFF
ADDED_BY_ABI = ((2, 1 << 13), (3, 1 << 14), (5, 1 << 15))
ON_FILES = EXECUTE | WRITE_FILE | READ_FILE | 1 << 14 | 1 << 15
READ = EXECUTE | READ_FILE | READ_DIR
TCP, TCP_ABI = 0b11, 4
SIGNALS_AND_ABSTRACT_SOCKETS, SCOPE_ABI = 0b11, 6

PR_SET_SECCOMP, SECCOMP_MODE_FILTER, INSTRUCTION_BYTES = 22, 2, 8
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16


def limit(limits: dict[str, int]) -> None:
    """Set resource limits, soft and hard; keys are those of resource.RLIMIT_*."""
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def restrict_paths(read: Iterable[str], write: Iterable[str]) -> int:
    """Allow reading and running below `read`, everything below `write`, and nothing else.

    Where the kernel knows how, also no TCP, and no signal or abstract socket to processes outside.

    Returns:
        The kernel's Landlock version; 0 where it has none and nothing was restricted.
    """
    try:
        abi = system_call(LANDLOCK_CREATE_RULESET, None, 0, 1)
    except OSError:
        return 0
    handled = ALL_BUT_LATER | sum(bit for since, bit in ADDED_BY_ABI if abi >= since)
    fields = [handled]
    fields += [TCP] if abi >= TCP_ABI else []
    fields += [SIGNALS_AND_ABSTRACT_SOCKETS] if abi >= SCOPE_ABI else []
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = system_call(LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for rights, paths in ((READ, read), (handled, write)):
            for path in paths:
                _allow_below(ruleset, path, rights & handled)
        gain_no_privileges()
        system_call(LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return abi


def _allow_below(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(path):
            rights &= ON_FILES
        system_call(LANDLOCK_ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, fd), 0)
    finally:
        os.close(fd)


def deny_system_calls() -> bool:
    """Make system calls no answer needs fail with EPERM; False on a machine not in the tables.

    Denied: those in DENIED, among them all that make what outlives a process (shared memory, queues
    and semaphores of the kernel), new namespaces, sockets of other families than AF_UNIX. clone3,
    whose flags a filter cannot see, does not exist, so that libc uses clone.
    """
    if os.uname().machine not in MACHINES:
        return False
    program = _filter(*MACHINES[os.uname().machine])
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // INSTRUCTION_BYTES, ctypes.addressof(code))
    pointed = ctypes.create_string_buffer(header, len(header))
    gain_no_privileges()
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(pointed))
    return True


def _filter(column: int, machine: int) -> bytes:
    """The BPF program: each test either returns or falls through to the next."""
    refuse = _statement(_RETURN, _ERRNO | errno.EPERM)
    lines = [_statement(_LOAD, _MACHINE), _jump(_EQUAL, machine, 1, 0), refuse]
    lines += [_statement(_LOAD, _NUMBER), _jump(_ANY_BIT, X32_BIT, 0, 1), refuse]
    for numbers in DENIED.values():
        lines += [_jump(_EQUAL, numbers[column], 0, 1), refuse]
    lines += [_jump(_EQUAL, CLONE3[column], 0, 1), _statement(_RETURN, _ERRNO | errno.ENOSYS)]
    lines += [_jump(_EQUAL, CLONE[column], 0, 3), _statement(_LOAD, _FIRST_ARGUMENT)]
    lines += [_jump(_ANY_BIT, NEW_NAMESPACES, 0, 1), refuse, _statement(_LOAD, _NUMBER)]
    lines += [_jump(_EQUAL, SOCKET[column], 0, 3), _statement(_LOAD, _FIRST_ARGUMENT)]
    lines += [_jump(_EQUAL, AF_UNIX, 1, 0), refuse]
    return b"".join([*lines, _statement(_RETURN, _ALLOW)])


def _statement(code: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, 0, 0, value)


def _jump(code: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
