"""Server-sent events, and noticing that a client has left."""

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Result = TypeVar("Result")
Body = Mapping[str, Any]
DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": waiting\n\n"


class ClientLeftError(Exception):
    """The connection was closed before the answer."""


class EventStream(Response):
    """Sends each body as an event, comments while there is none, and closes what makes them.

    However the stream ends (at its end, by an error, by the client's leaving), the generator is
    closed before the response is done with.

    Args:
        events: Bodies; it must not raise but for a defect.
        heartbeat_s: How long nothing may be sent.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[Body, None], *, heartbeat_s: float) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._heartbeat_s = events, heartbeat_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        async with aclosing(self._events):
            sending = asyncio.ensure_future(self._send_all(start, send))
            leaving = asyncio.ensure_future(_disconnected(receive))
            try:
                await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await _cancel(leaving)
                await _cancel(sending)
            if not sending.cancelled() and (error := sending.exception()):
                raise error

    async def _send_all(self, start: Body, send: Send) -> None:
        await send(dict(start))
        following: asyncio.Task[Body] | None = None
        try:
            while True:
                following = following or asyncio.ensure_future(anext(self._events))
                done, _ = await asyncio.wait({following}, timeout=self._heartbeat_s)
                if not done:
                    await _send(send, HEARTBEAT)
                    continue
                try:
                    body = following.result()
                except StopAsyncIteration:
                    break
                following = None
                await _send(send, encode(body))
        finally:
            if following is not None:
                await _cancel(following)
        await _send(send, DONE)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def encode(body: Body) -> bytes:
    """One event."""
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Await work, but cancel it when the client leaves.

    Raises:
        ClientLeftError: It did.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeftError
    finally:
        await _cancel(leaving)
        await _cancel(working)
    return working.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _cancel(task: asyncio.Future[Any]) -> None:
    """Cancel a task and see it end."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
