"""The engine's thread, and how asyncio tasks talk to it.

One thread owns the engine. Between two steps it runs what was posted to it: additions and aborts,
all of them, and at most one longer call (scoring, embeddings), so that streams go on. After a step
it hands all new outputs to the event loop in one callback.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from labkit.inference.engine import Output
from labkit.serving.errors import step_failed, unavailable
from labkit.serving.step_engine import StepEngine
from labkit.serving.ticket import Call, Job, Ticket

log = logging.getLogger(__name__)
Result = TypeVar("Result")
Command = Callable[[], None]
Outputs = asyncio.Queue[tuple[Ticket, Output | Exception]]


class Worker:
    """Runs an engine for any number of tasks of one event loop.

    A step that raises ends the requests that ran in it, each with a typed error, and no others.

    Args:
        engine: Advanced by steps; nobody else may touch it after `start`.
    """

    def __init__(self, engine: StepEngine) -> None:
        self.engine = engine
        self.broken = ""  # why nothing can be generated any more
        self.failed_steps = 0
        self._tickets: dict[int, Ticket] = {}
        self._keys: dict[Ticket, int] = {}
        self._queued: dict[int, Ticket] = {}  # not yet in a step
        self._posted: deque[Command] = deque()
        self._calls: deque[Call[Any]] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin; call it in the event loop that will submit."""
        if self._thread is not None:
            raise RuntimeError("the worker has been started already")
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="labkit-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether texts can be submitted."""
        return (
            self._thread is not None
            and self._thread.is_alive()
            and not (self._closing or self.broken)
        )

    def submit(self, job: Job, outputs: Outputs) -> Ticket:
        """Post a text to the engine; await `accepted` to learn whether it fits.

        Args:
            job: What is to be generated.
            outputs: Where the text's outputs go, with its ticket.

        Raises:
            ApiError: 503, the worker does not run.
        """
        self._require_alive()
        ticket = Ticket(self, job, outputs)
        self._post(self._posted, partial(self._add, ticket))
        return ticket

    async def call(self, function: Callable[[], Result]) -> Result:
        """Run a function in the engine's thread, between two steps, and return what it does.

        A call whose task was cancelled before its turn is not run.

        Raises:
            ApiError: 503, the worker does not run.
        """
        self._require_alive()
        call = Call(function)
        self._post(self._calls, call)
        return await call.future

    def cancel(self, ticket: Ticket) -> None:
        """Post an abort."""
        self._post(self._posted, partial(self._abort, ticket))

    async def close(self) -> None:
        """Abort what is under way, and end the thread."""
        if self._thread is None:
            return
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    def _require_alive(self) -> None:
        if not self.alive:
            raise unavailable(self.broken or "the server is shutting down or has not started")

    def _post(self, queue: deque[Any], item: Command | Call[Any]) -> None:
        with self._wake:
            queue.append(item)
            self._wake.notify()

    # From here on: in the engine's thread.

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(self._has_work)
                posted = list(self._posted)
                self._posted.clear()  # not replaced: `_post` may hold it already
                calls = deque(self._calls if self._closing else islice(self._calls, 1))
                for _ in calls:
                    self._calls.popleft()
                closing = self._closing
            for command in posted:
                self._obey(command)
            if closing:
                self._end_all(unavailable("the server is shutting down"), calls)
                return
            for call in calls:
                self._hand_over(call.run())
            if self._can_step():
                self._step()

    def _has_work(self) -> bool:
        return bool(self._posted or self._calls or self._closing) or self._can_step()

    def _can_step(self) -> bool:
        return not self.broken and self.engine.unfinished > 0

    def _obey(self, command: Command) -> None:
        try:
            command()
        except Exception as error:
            log.exception("the engine refused an order")
            self._recover(error)

    def _add(self, ticket: Ticket) -> None:
        job = ticket.job
        if ticket.closed:
            return
        if self.broken:
            self._hand_over(partial(ticket.fail, unavailable(self.broken)))
            return
        try:
            constraint = None if job.constraint is None else job.constraint()
            key = self.engine.add_request(
                job.prompt,
                job.config,
                adapter=job.adapter,
                client=job.client,
                constraint=constraint,
            )
        except Exception as error:  # unfit, or a grammar nobody foresaw: told to its task alone
            self._hand_over(partial(ticket.fail, error))
            return
        self._tickets[key] = self._queued[key] = ticket
        self._keys[ticket] = key
        self._hand_over(ticket.accept)

    def _abort(self, ticket: Ticket) -> None:
        key = self._keys.pop(ticket, None)
        if key is not None:
            del self._tickets[key]
            self._queued.pop(key, None)
            self.engine.abort(key)

    def _step(self) -> None:
        try:
            outputs = self.engine.step()
        except Exception as error:
            log.exception("a step of the engine failed")
            self._recover(error)
            return
        begun = self._queued.keys() & {*self.engine.running, *(o.key for o in outputs)}
        for key in begun:
            self._hand_over(self._queued.pop(key).begin)
        known = [(self._tickets[output.key], output) for output in outputs]
        for ticket, output in known:
            if output.finish_reason is not None:
                del self._tickets[self._keys.pop(ticket)]
        self._hand_over(partial(_put_all, known))

    def _recover(self, error: Exception) -> None:
        """End the requests of the step that failed, and see that the engine is sound."""
        self.failed_steps += 1
        try:
            for key in self.engine.running or list(self._tickets):
                self._end(key, step_failed(error))
            self.engine.check_integrity()
        except Exception as problem:
            log.exception("the engine is not sound after a failed step")
            self.broken = f"the engine is not sound: {problem or type(problem).__name__}"
            self._end_all(unavailable(self.broken))

    def _end(self, key: int, error: Exception) -> None:
        ticket = self._tickets.pop(key, None)
        self._queued.pop(key, None)
        if ticket is not None:
            del self._keys[ticket]
            self._hand_over(partial(ticket.fail, error))
        self.engine.abort(key)

    def _end_all(self, error: Exception, calls: Iterable[Call[Any]] = ()) -> None:
        for call in calls:
            self._hand_over(partial(call.settle, None, error))
        for key in list(self._tickets):
            try:
                self._end(key, error)
            except Exception:
                log.exception("request %d could not be aborted", key)

    def _hand_over(self, callback: Command) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop has gone: nobody waits
            log.warning("the event loop ended before its worker")


def _put_all(outputs: list[tuple[Ticket, Output]]) -> None:
    for ticket, output in outputs:
        ticket.put(output)
