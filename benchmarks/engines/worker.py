"""A worker process: one engine, one request a line on stdin, one answer a line on a pipe.

All engines stay loaded while one is measured; a worker that waits reads its pipe and spins nowhere.
The other side runs under any engine's Python: this file imports the standard library alone.
"""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class WorkerError(RuntimeError):
    """The engine failed; the message is its traceback."""


def serve(make: Callable[..., Any]) -> None:
    """Make the engine of the first argument's settings, and answer until stdin ends.

    Requests are {"task": method, **arguments}. Answers have a pipe of their own, the second
    argument, since engines print what they like.
    """
    with os.fdopen(int(sys.argv[2]), "w") as answers:
        engine = make(**json.loads(sys.argv[1]))
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = {"value": getattr(engine, request.pop("task"))(**request)}
            except Exception:  # whatever it is, the other side must hear of it
                answer = {"error": traceback.format_exc()}
            print(json.dumps(answer), file=answers, flush=True)


class Worker:
    """The measuring side of one worker.

    Args:
        module: Of `benchmarks.engines`, run by `python`.
        settings: Its first argument, as JSON.
        python: Of the environment the engine is installed in.
        threads: OpenMP threads it may use.
        log: Where its output goes.
        env: Further variables of its environment.
    """

    def __init__(
        self,
        module: str,
        settings: dict[str, Any],
        *,
        python: Path,
        threads: int,
        log: Path,
        env: dict[str, str] | None = None,
    ) -> None:
        self._name = log.stem
        self._log = log.open("w")
        receiving, sending = os.pipe()
        self._answers = os.fdopen(receiving)
        command = [str(python), "-m", f"benchmarks.engines.{module}", json.dumps(settings)]
        self._process = subprocess.Popen(
            [*command, str(sending)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)} | (env or {}),
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=[sending],
            text=True,
        )
        os.close(sending)

    def ask(self, task: str, **arguments: Any) -> Any:
        """Run a method of the engine and return its value.

        Raises:
            WorkerError: it raised, or the process ended.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: there is no answer either
            self._process.stdin.write(json.dumps({"task": task, **arguments}) + "\n")
            self._process.stdin.flush()
        line = self._answers.readline()
        answer = json.loads(line) if line else {"error": f"it ended: {self._last_words()}"}
        if "error" in answer:
            raise WorkerError(f"{self._name}: {answer['error']}")
        return answer["value"]

    def _last_words(self) -> str:
        """The end of what a process printed that closed its answers: it is about to end."""
        self._process.wait()
        return Path(self._log.name).read_text(errors="replace")[-2000:]

    def close(self) -> None:
        """End the process; `serve` returns at the end of its input."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        self._log.close()
