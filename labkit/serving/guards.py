"""What every request passes before a route sees it: a size limit and an API key."""

import hashlib
import hmac
import json
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labkit.serving.errors import ApiError

OPEN_PATHS = ("/health", "/ready")


class BodyLimit:
    """Refuses bodies above a size, by their announced length or when they grow past it.

    Args:
        app: What comes after.
        max_bytes: Of a body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self._max_bytes:
            await answer(_too_large(self._max_bytes), send)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._max_bytes:
                raise HTTPException(413, _too_large(self._max_bytes).message)
            return message

        await self._app(scope, counted, send)


class ApiKeys:
    """Asks for `Authorization: Bearer KEY`, compared in constant time.

    Args:
        app: What comes after.
        keys: Those that open it; none: everybody comes in.
    """

    def __init__(self, app: ASGIApp, keys: Iterable[str]) -> None:
        self._app = app
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        guarded = scope["type"] == "http" and scope["path"] not in OPEN_PATHS
        if self._digests and guarded and not self._knows(Headers(scope=scope)):
            await answer(_no_key(), send)
            return
        await self._app(scope, receive, send)

    def _knows(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = _digest(key.strip().encode("latin-1"))
        found = [hmac.compare_digest(given, digest) for digest in self._digests]  # all of them
        return scheme.lower() == "bearer" and any(found)


async def answer(error: ApiError, send: Send) -> None:
    """Send an error without the application's help."""
    body = json.dumps(error.body).encode()
    pairs = {**error.headers, "content-type": "application/json", "content-length": str(len(body))}
    headers = [(name.lower().encode(), value.encode()) for name, value in pairs.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _too_large(limit: int) -> ApiError:
    return ApiError(
        f"the body has more than {limit} bytes: send less", status=413, code="request_too_large"
    )


def _no_key() -> ApiError:
    return ApiError(
        "this server needs a valid API key: send 'Authorization: Bearer KEY'",
        status=401,
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
