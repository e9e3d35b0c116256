"""What happens to every request around its backend: limits, time, disconnects, errors, records."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from labkit.serving.adapter_source import AdapterSource, Registry
from labkit.serving.admission import Admission
from labkit.serving.backends.base import Backend, Body
from labkit.serving.config import ServingConfig
from labkit.serving.errors import ApiError, as_api_error, timed_out
from labkit.serving.event_stream import ClientLeftError, EventStream, unless_disconnected
from labkit.serving.metrics import LoadCollector, Metrics
from labkit.serving.schemas.generation import GenerationRequest
from labkit.serving.trace import CLIENT_LEFT, Trace

log = logging.getLogger(__name__)


class Gateway:
    """One server's backend, with the limits and records around it.

    Args:
        backend: Makes the texts.
        config: Limits and times.
        registry: Knows adapters by name.
    """

    def __init__(
        self, backend: Backend, config: ServingConfig, registry: Registry | None = None
    ) -> None:
        self.backend, self.config = backend, config
        self.adapters = AdapterSource(config.adapters_root, registry)
        self.admission = Admission(backend.max_batch, config.max_waiting)
        self.metrics = Metrics()
        self.metrics.watch(LoadCollector(backend))
        self.metrics.in_flight.set_function(lambda: self.admission.in_flight)
        self.started_s = int(time.time())
        self.mounting = asyncio.Lock()

    def unready(self) -> str:
        """Why requests are not taken now; empty if they are."""
        return "the server is shutting down" if self.admission.draining else self.backend.unready()

    async def shut_down(self) -> None:
        """Take no more requests, wait for those under way, end what is left after the grace."""
        self.admission.draining = True
        deadline = time.monotonic() + self.config.grace_s
        while self.admission.in_flight and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        await self.backend.close()

    async def whole(
        self, request: Request, trace: Trace, texts: int, work: Callable[[], Awaitable[Body]]
    ) -> Response:
        """Answer with one body.

        Args:
            request: To see its client leave.
            trace: Is finished here.
            texts: How many places in the queue it takes.
            work: Makes the body.
        """
        try:
            with self.admission.enter(texts):
                body = await self._in_time(unless_disconnected(request, _started(work)))
            self.admission.took(trace.age_s)
            trace.finish(200)
        except ClientLeftError:
            trace.finish(CLIENT_LEFT)
            return Response(status_code=CLIENT_LEFT)
        except Exception as error:
            raise self._told(error, trace) from error
        finally:
            trace.finish(CLIENT_LEFT)  # if it was cancelled
        return JSONResponse(body, headers={"x-request-id": trace.id})

    async def stream(self, request: Request, body: GenerationRequest, trace: Trace) -> Response:
        """Answer with events, once the backend has taken the request."""
        bodies = self._bodies(body, trace)
        try:
            await unless_disconnected(request, _started(lambda: anext(bodies)))
        except ClientLeftError:
            await bodies.aclose()
            return Response(status_code=CLIENT_LEFT)
        response = EventStream(bodies, heartbeat_s=self.config.heartbeat_s)
        response.headers["x-request-id"] = trace.id
        return response

    async def _bodies(self, request: GenerationRequest, trace: Trace) -> AsyncGenerator[Body, None]:
        """The backend's events; an error after the first is an event too, and the last."""
        begun = False
        deadline = time.monotonic() + (self.config.request_timeout_s or float("inf"))
        try:
            with self.admission.enter(request.sequences):
                async with aclosing(self.backend.events(request, trace)) as events:
                    while (event := await self._next(events, deadline)) is not None:
                        yield event
                        begun = True
            self.admission.took(trace.age_s)
            trace.finish(200)
        except Exception as error:
            problem = self._told(error, trace)
            if not begun:
                raise problem from error
            yield problem.body
        finally:
            trace.finish(CLIENT_LEFT)  # if it was left early

    async def _next(self, events: AsyncGenerator[Body, None], deadline: float) -> Body | None:
        left = deadline - time.monotonic()
        try:
            return await asyncio.wait_for(anext(events), None if left == float("inf") else left)
        except StopAsyncIteration:
            return None
        except TimeoutError as error:
            raise timed_out(self.config.request_timeout_s or 0) from error

    async def _in_time(self, work: Awaitable[Body]) -> Body:
        try:
            async with asyncio.timeout(self.config.request_timeout_s):
                return await work
        except TimeoutError as error:
            raise timed_out(self.config.request_timeout_s or 0) from error

    def _told(self, error: Exception, trace: Trace) -> ApiError:
        problem = as_api_error(error)
        if problem.status == 500 and problem is not error:
            log.error("request %s failed", trace.id, exc_info=error)
        if problem.code == "queue_full":
            self.metrics.refused.inc()
        problem.headers["x-request-id"] = trace.id
        trace.finish(problem.status)
        return problem


async def _started(work: Callable[[], Awaitable[Body]]) -> Body:
    return await work()
