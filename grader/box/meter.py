"""How long a box has run, on a machine that may be busy with other things."""

import time

from grader.box.processes import processor_s, wants_processor
from grader.box.wire import Left

PATIENCE = 10


class Meter:
    """Counts the clock's seconds; while a box waits for a processor only those that it gets.

    So a busy machine takes no time from honest work, and who sleeps is not waited for.

    Attributes:
        spent_s: Seconds counted since the start.
    """

    def __init__(self, pid: int) -> None:
        self.spent_s = 0.0
        self._pid, self._at, self._used_s = pid, time.monotonic(), processor_s(pid)

    def read(self) -> None:
        """Count what has passed since the last time; call it often, from one thread."""
        now, used_s = time.monotonic(), processor_s(self._pid)
        passed_s, got_s = now - self._at, max(0.0, used_s - self._used_s)
        self.spent_s += min(passed_s, got_s) if wants_processor(self._pid) else passed_s
        self._at, self._used_s = now, used_s

    def left(self, limit_s: float) -> Left:
        """So many counted seconds from now on; by the clock at most `PATIENCE` times as many."""
        until, latest = self.spent_s + limit_s, time.monotonic() + PATIENCE * limit_s
        return lambda: min(until - self.spent_s, latest - time.monotonic())
