"""What goes between asyncio tasks and the engine's thread: texts on their way, and calls."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar, runtime_checkable

from labkit.inference.constraint import Constraint
from labkit.inference.engine import Output
from labkit.inference.sampling import SamplingConfig

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is to be generated.

    Attributes:
        prompt: Token ids.
        config: Choice of tokens and end.
        adapter: Name of a mounted adapter; None: the base.
        constraint: Makes what the text must obey; called in the engine's thread, since grammars
            that are compiled as they go are shared.
        client: Whom it is counted for.
    """

    prompt: list[int]
    config: SamplingConfig
    adapter: str | None = None
    constraint: Callable[[], Constraint] | None = None
    client: str = ""


@runtime_checkable
class Cancels(Protocol):
    """What a ticket needs of its worker."""

    def cancel(self, ticket: "Ticket") -> None: ...


class Ticket:
    """One text in the engine; its outputs come into a queue that tickets may share.

    All of it runs in the event loop, to which the worker's thread hands over; nothing needs a lock.

    Args:
        worker: To be told when nobody cares any more.
        job: What was asked for.
        outputs: Takes each output, or the error that ends the text, with this ticket.
    """

    def __init__(
        self,
        worker: Cancels,
        job: Job,
        outputs: "asyncio.Queue[tuple[Ticket, Output | Exception]]",
    ) -> None:
        self.job = job
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = False
        self.ended = False
        self.begun_s: float | None = None  # when a step first had it, by time.perf_counter
        self._worker, self._outputs = worker, outputs

    def accept(self) -> None:
        """The engine has taken the request."""
        if not self.accepted.done():
            self.accepted.set_result(None)

    def begin(self) -> None:
        """The request waits no longer: it took part in a step."""
        self.begun_s = time.perf_counter()

    def put(self, output: Output) -> None:
        """The engine has made a token."""
        self.ended = output.finish_reason is not None
        self._outputs.put_nowait((self, output))

    def fail(self, error: Exception) -> None:
        """The engine will not go on: raise this in whoever waits."""
        self.ended = True
        if not self.accepted.done():
            self.accepted.set_exception(error)
            self.accepted.exception()  # seen: nobody need be waiting
        self._outputs.put_nowait((self, error))

    def close(self) -> None:
        """Stop caring: the engine drops the request unless it has ended; may be called twice."""
        if not self.closed:
            self.closed = True
            self.accepted.cancel()
            if not self.ended:
                self._worker.cancel(self)


class Call(Generic[Result]):
    """A function for the engine's thread; made in the event loop, which gets its result."""

    def __init__(self, function: Callable[[], Result]) -> None:
        self.future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._function = function

    def run(self) -> Callable[[], None]:
        """Do it, unless nobody waits any more; what the event loop is to run then."""
        if self.future.cancelled():
            return lambda: None
        try:
            return partial(self.settle, self._function(), None)
        except Exception as error:  # handed on to whoever waits
            return partial(self.settle, None, error)

    def settle(self, result: Result | None, error: Exception | None) -> None:
        """In the event loop: give the result to whoever waits."""
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)  # type: ignore[arg-type]
