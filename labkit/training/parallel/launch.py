"""Rank processes on this machine: started together, given functions to run, never left hanging.

Processes come from a fork server that has PyTorch loaded, so that a new world costs a fraction of
a second. Nothing of them outlives a failure, a deadline or the parent. What they print, and what
libraries tell there, goes to a file each beside the rendezvous file.

Rank functions of a module travel by name: the rank imports the module, along the caller's
`sys.path`. Those that a notebook or a script defines itself travel by value, as do the functions,
classes and tensors that they mention; modules they mention are imported on the rank. So in a
notebook:

    def worker(n):                      # in a cell
        return collectives.all_reduce(torch.ones(n), Group.world())

    with Ranks(2, Path(tempfile.mkdtemp())) as ranks:
        first, second = ranks.run(worker, 5)

What a call must leave for the next one (a model, an optimizer) is kept in `held`, by name: it is
one dictionary on each rank and lives as long as the ranks. A value that refers to a large tensor
of the notebook sends it with every call: pass names and sizes, and build on the rank.
"""

import importlib.util
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist

# torch._dynamo: every first optimizer imports it, which costs a rank more than all else together.
_PRELOAD = ["__main__", "torch.distributed", "torch._dynamo", "labkit.model.minillm"]

held: dict[str, Any] = {}
"""What rank functions keep between calls; the caller's own stays empty."""


class RankError(RuntimeError):
    """A rank raised, died or did not answer in time; its traceback is in the message."""


class Ranks:
    """`size` processes joined in one gloo group, each with one thread.

    Use it as a context manager. Arguments and results travel by value, functions as the module
    says.
    """

    def __init__(
        self,
        size: int,
        folder: Path,
        *,
        deadline_s: float = 60.0,
        preload: Sequence[str] = (),
    ) -> None:
        """Starts the processes.

        Args:
            size: n, of them.
            folder: where the rendezvous file and the ranks' output lie.
            deadline_s: the longest that the start or one call may take.
            preload: modules that rank functions need; loaded once, if these are the first ranks.

        Raises:
            ValueError: `size` is not positive.
            RankError: a process could not join.
        """
        if size < 1:
            raise ValueError(f"size={size} must be at least 1")
        self.size = size
        self._deadline_s = deadline_s
        self._processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []
        self._store = store = folder / f"ranks-{os.getpid()}-{time.monotonic_ns()}"
        context = get_context("forkserver")
        context.set_forkserver_preload([*_PRELOAD, *preload])
        for rank in range(size):
            ours, theirs = context.Pipe()
            arguments = (rank, size, str(store), deadline_s, theirs)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)
        self._answers()

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """`function(*arguments)` on every rank.

        Returns:
            The results by rank.

        Raises:
            RankError: a rank raised, died or overran the deadline; all are then ended. A ValueError
                that it raised is the cause.
            ValueError: the function stands in a notebook or script, and cloudpickle is missing.
        """
        if not self._processes:
            raise RankError("the ranks have ended: start new ones with Ranks(...)")
        task = _task(function, arguments)
        for rank, pipe in enumerate(self._pipes):
            try:
                pipe.send_bytes(task)
            except ConnectionError:
                self._fail(f"rank {rank} of {self.size} died between two calls")
        return self._answers()

    @property
    def alive(self) -> bool:
        """Whether `run` can be called."""
        return bool(self._processes)

    def close(self) -> None:
        """Ends every process at once, whatever it does."""
        for process in self._processes:
            process.kill()
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.join()
            process.close()
            pipe.close()
        self._processes, self._pipes = [], []

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answers(self) -> list[Any]:
        end = time.monotonic() + self._deadline_s
        results: dict[int, Any] = {}
        while len(results) < self.size:
            waiting = {p: r for r, p in enumerate(self._pipes) if r not in results}
            ready = wait(list(waiting), timeout=max(0.0, end - time.monotonic()))
            if not ready:
                self._fail(f"ranks {sorted(waiting.values())} overran {self._deadline_s} s")
            for pipe, rank in waiting.items():
                if pipe in ready:
                    results[rank] = self._answer(pipe, rank)
        return [results[rank] for rank in range(self.size)]

    def _answer(self, pipe: Connection, rank: int) -> Any:
        try:
            failure, result = pickle.loads(pipe.recv_bytes())
        except (EOFError, ConnectionError):
            self._fail(f"rank {rank} of {self.size} died without a word{self._last_words(rank)}")
        if failure is not None:
            self._fail(f"rank {rank} of {self.size} failed:\n{failure}", cause=result)
        return result

    def _last_words(self, rank: int) -> str:
        log = _log(str(self._store), rank)
        lines = log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []
        return "".join(f"\n  {line}" for line in lines)

    def _fail(self, message: str, cause: ValueError | None = None) -> NoReturn:
        self.close()
        raise RankError(message) from cause


def _serve(rank: int, size: int, store: str, deadline_s: float, pipe: Connection) -> None:
    """One rank's life: join, then answer calls until the pipe closes."""
    log = os.open(_log(store, rank), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    torch.set_num_threads(1)
    pipe.send_bytes(_outcome(_join, (rank, size, store, deadline_s)))
    while True:
        try:
            task = pipe.recv_bytes()
        except EOFError:
            return
        pipe.send_bytes(_outcome(_perform, (task,)))


def _task(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
    """Pickled call; cloudpickle takes by value what no module offers by name."""
    if function.__module__ != "__main__":
        return pickle.dumps((function, arguments))
    if importlib.util.find_spec("cloudpickle") is None:
        raise ValueError(
            f"{function.__qualname__} stands in a notebook or script: pip install cloudpickle, or "
            "move it into a module that can be imported"
        )
    task: bytes = importlib.import_module("cloudpickle").dumps((function, arguments))
    return task


def _perform(task: bytes) -> Any:
    function, arguments = pickle.loads(task)
    return function(*arguments)


def _log(store: str, rank: int) -> Path:
    """Where a rank's output goes."""
    return Path(f"{store}.rank-{rank}.log")


def _join(rank: int, size: int, store: str, deadline_s: float) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=deadline_s),
    )


def _outcome(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
    """Pickled (None, result) or (traceback, error); what a rank raises belongs to its caller."""
    try:
        return pickle.dumps((None, function(*arguments)))
    except BaseException as error:
        known = error if isinstance(error, ValueError) else None
        return pickle.dumps((traceback.format_exc(), known))
