"""One running box: started, fed, watched and killed from outside."""

import os
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

from grader.box.calls import Kept
from grader.box.frames import WireError
from grader.box.meter import Meter
from grader.box.processes import held_bytes
from grader.box.tier import Limits
from grader.box.warm import Child
from grader.box.wire import ClosedError, Left
from grader.checks.outside import Outside

WATCH_INTERVAL_S = 0.05
READ_BYTES = 2**16
TAIL_BYTES = 2_000
Answer = TypeVar("Answer")


class Trouble(StrEnum):
    """Why a box ended before it was asked to."""

    TIMEOUT = "TIMEOUT"
    OOM = "OOM"
    CRASH = "CRASH"
    OUTPUT_LIMIT = "OUTPUT_LIMIT"
    TAMPER = "TAMPER"


class BoxEnded(Exception):  # noqa: N818 - an outcome, not a fault of the grader
    """The box is gone; `cell` names the cell that was running, `tail` is what it printed last."""

    def __init__(self, trouble: Trouble, message: str, cell: str = "", tail: bytes = b"") -> None:
        super().__init__(message)
        self.trouble, self.message, self.cell, self.tail = trouble, message, cell, tail


class Session:
    """A box from start to kill, for one thread."""

    def __init__(
        self, child: Child, limits: Limits, *, then: Callable[[], None] | None = None
    ) -> None:
        """Watch a box that was started; `then` is called when it has been closed."""
        self._limits = limits
        self._then = then
        self._trouble: Trouble | None = None
        self._cell = ""
        self._asked = 0
        self.tail = b""
        self._child, self._channel = child, child.channel
        self._meter = Meter(child.pid)
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=target, daemon=True)
            for target in (self._watch, self._drain_output)
        ]
        for thread in self._threads:
            thread.start()

    def load(self, job: dict[str, Any]) -> dict[str, str]:
        """Run the job's cells; return the message of each that failed.

        Raises:
            BoxEnded: The box did not survive the cells.
        """

        def exchange() -> dict[str, str]:
            left = self._meter.left
            self._channel.send(job, left(self._limits.start_s))
            message = self._channel.receive(left(self._limits.start_s))
            while message.get("event") != "loaded":
                self._cell = str(message.get("id", ""))
                message = self._channel.receive(left(self._limits.cell_s))
            self._cell = ""
            return {str(key): str(text) for key, text in dict(message["errors"]).items()}

        return self._guarded(exchange, self._limits.cell_s)

    def ask(
        self, check: str, symbol: str, inputs: dict[str, Any], limit_s: float
    ) -> dict[str, Any]:
        """Call the student's implementation; return its `outputs` and `error`.

        Functions among the inputs stay here and are called here while the answer is waited for.

        Raises:
            BoxEnded: The box did not survive the call.
        """
        self._asked += 1
        question = {"id": self._asked, "check": check, "symbol": symbol, "inputs": inputs}
        left = self._meter.left(limit_s)

        def exchange() -> dict[str, Any]:
            functions: list[Outside] = []
            self._channel.send(question, left, outside=functions)
            answer = self._answer(Kept(functions), left)
            if answer.get("id") != self._asked or not isinstance(answer.get("error"), str):
                raise WireError("an answer to another question")
            return answer

        return self._guarded(exchange, limit_s)

    def _answer(self, kept: Kept, left: Left) -> dict[str, Any]:
        """The next message that is no call; those before it are replied to."""
        while True:
            message = self._channel.receive(left)
            if message.get("event") != "call":
                return message
            self._channel.send(kept.reply(message), left)

    def _guarded(self, exchange: Callable[[], Answer], limit_s: float) -> Answer:
        """Turn every way a box can end into BoxEnded with a sentence for the student."""
        try:
            return exchange()
        except TimeoutError:
            raise self._ended(Trouble.TIMEOUT, f"it ran longer than {limit_s:g} s") from None
        except ClosedError:
            self._child.wait()
            raise self._ended(Trouble.CRASH, "the process ended in the middle of it") from None
        except (WireError, KeyError, TypeError, ValueError) as error:
            self._child.kill()
            raise self._ended(Trouble.TAMPER, f"it wrote into the grader's pipe: {error}") from None

    def _ended(self, trouble: Trouble, message: str) -> BoxEnded:
        mebibytes = 2**20
        if self._trouble is Trouble.OOM:
            held = self._limits.memory_bytes // mebibytes
            trouble, message = Trouble.OOM, f"it used more than {held} MiB of memory"
        elif self._trouble is Trouble.OUTPUT_LIMIT:
            printed = self._limits.output_bytes // mebibytes
            trouble, message = Trouble.OUTPUT_LIMIT, f"it printed more than {printed} MiB"
        return BoxEnded(trouble, message, self._cell, self.tail)

    def _stop(self, trouble: Trouble) -> None:
        if self._trouble is None:
            self._trouble = trouble
        self._child.kill()

    @property
    def spent_s(self) -> float:
        """Seconds that the box has run, as `Meter` counts them."""
        return self._meter.spent_s

    def _watch(self) -> None:
        """Count its time; kill it when its processes together hold more memory than allowed."""
        first, most = self._child.pid, self._limits.memory_bytes
        while not self._over.wait(WATCH_INTERVAL_S):
            self._meter.read()
            if held_bytes(first, most) > most:
                self._stop(Trouble.OOM)
                return

    def _drain_output(self) -> None:
        """Read and drop what is printed, and kill the box when it is too much."""
        printed = 0
        while part := os.read(self._child.output_fd, READ_BYTES):
            printed += len(part)
            self.tail = (self.tail + part)[-TAIL_BYTES:]
            if printed > self._limits.output_bytes:
                self._stop(Trouble.OUTPUT_LIMIT)
                return

    def close(self) -> None:
        """Kill the box and everything in it, and wait until it is gone."""
        self._over.set()
        self._child.kill()
        self._child.wait()
        for thread in self._threads:
            thread.join()
        self._child.close()
        if self._then is not None:
            self._then()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
