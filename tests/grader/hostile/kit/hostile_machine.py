"""What submissions might leave on the machine: mounts, ports, files, processes."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

LEFTOVER = "hostile-leftover"
ESCAPED = "hostile-escape"
OPEN_TO_ALL = ("/tmp", "/var/tmp", "/dev/shm")
PORT = 47_813


def mounts() -> set[str]:
    return set(Path("/proc/self/mounts").read_text().splitlines())


def shared() -> list[str]:
    """What stays in the kernel when its maker has ended: System V memory, queues, semaphores."""
    return [
        f"{kind} {line.split()[0]}"
        for kind in ("shm", "msg", "sem")
        for line in Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]
    ]


def daemons() -> list[str]:
    """Processes that a submission named as its own."""
    lines = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    return [" ".join(line) for line in lines if line and line[0] == LEFTOVER]


def escaped(*folders: Path) -> list[str]:
    """Files that a submission named as its own, where anybody may write and in some folders."""
    found = [path for folder in OPEN_TO_ALL for path in Path(folder).glob(f"*{ESCAPED}*")]
    found += [folder / path for folder in folders for path in everything(folder)]
    return sorted(str(path) for path in found if ESCAPED in path.name)


def somebody_listens() -> bool:
    """Whether the port that a submission opens is open out here."""
    sockets = psutil.net_connections("inet")
    return any(s.status == psutil.CONN_LISTEN and s.laddr.port == PORT for s in sockets)


def everything(folder: Path) -> Iterator[str]:
    """All folders and files below a folder, links not followed."""
    for parent, folders, files in os.walk(folder):
        yield from (os.path.relpath(os.path.join(parent, n), folder) for n in (*folders, *files))
