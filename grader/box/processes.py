"""What a process and its descendants use, read often and cheaply."""

import os
from contextlib import suppress
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
STATE, TIMES = 0, slice(11, 15)


def held_bytes(pid: int, limit_bytes: int) -> int:
    """Memory that a process and all its descendants hold together; 0 when it is gone.

    The sum of what is resident counts a page that a fork shares with its parent for each of them.
    Only where that sum is over the limit are shared pages counted once: it takes longer.

    Args:
        pid: The first process.
        limit_bytes: Below it the answer may be too large.
    """
    family = _family(pid)
    held = sum(_resident_bytes(member) for member in family)
    if held <= limit_bytes or len(family) == 1:
        return held
    return sum(_share_bytes(member) for member in family)


def processor_s(pid: int) -> float:
    """Processor time that a process, its descendants and those they waited for have used."""
    ticks = 0
    for member in _family(pid):
        with suppress(OSError, IndexError):
            ticks += sum(int(ticks) for ticks in _stat(f"/proc/{member}/stat")[TIMES])
    return ticks / TICKS_A_SECOND


def wants_processor(pid: int) -> bool:
    """Whether a thread of a process or of a descendant runs, or would if it got a processor."""
    for member in _family(pid):
        with suppress(OSError, IndexError):
            for thread in os.listdir(f"/proc/{member}/task"):
                if _stat(f"/proc/{member}/task/{thread}/stat")[STATE] == "R":
                    return True
    return False


def _stat(path: str) -> list[str]:
    """The fields after the name, which may hold anything; the first is the state."""
    return Path(path).read_text(errors="replace").rpartition(")")[2].split()


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{found[-1]}/task"):
                text = Path(f"/proc/{found[-1]}/task/{thread}/children").read_text()
                waiting += [int(child) for child in text.split()]
    return found


def _resident_bytes(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    return 0


def _share_bytes(pid: int) -> int:
    """Its resident memory, a page that n processes share counted as an nth of one.

    A process may forbid to be looked into: then all that is resident is its own.
    """
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        shares = [line.split()[1] for line in lines if line.startswith("Pss:")]
        return sum(int(share) * 1024 for share in shares)
    return _resident_bytes(pid)
