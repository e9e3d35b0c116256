"""Calls to a vLLM server, its failures told as ours."""

import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labkit.runtime.errors import MissingDependencyError
from labkit.serving.errors import ApiError, unavailable

Body = Mapping[str, Any]
LOAD_S = 120.0  # reading an adapter takes a while


class VllmClient:
    """The routes of vLLM's server that a gateway needs.

    Args:
        url: Of the server, without a slash at the end.

    Raises:
        MissingDependencyError: httpx is not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            import httpx
        except ImportError as error:
            raise MissingDependencyError(
                "the vllm backend needs httpx: pip install 'llm-engineering-lab[serve]'"
            ) from error
        self._httpx, self._url = httpx, url
        self._http = self._connections()

    def _connections(self) -> Any:
        limits = self._httpx.Limits(max_connections=None)
        return self._httpx.AsyncClient(
            base_url=self._url, timeout=None, limits=limits, trust_env=False
        )

    async def reset(self) -> None:
        """Forget connections to a server that has ended."""
        old, self._http = self._http, self._connections()
        await old.aclose()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def healthy(self) -> bool:
        """Whether it answers."""
        try:
            response = await self._http.get("/health", timeout=5)
        except self._httpx.HTTPError:
            return False
        return bool(response.status_code == 200)

    async def models(self) -> dict[str, int]:
        """Names it serves, with the length of their contexts."""
        with self._failures():
            response = await self._http.get("/v1/models", timeout=LOAD_S)
        _raise(response.status_code, response.text)
        return {row["id"]: int(row.get("max_model_len") or 0) for row in response.json()["data"]}

    async def load(self, name: str, folder: Path) -> None:
        """Load an adapter."""
        await self._plain("load", {"lora_name": name, "lora_path": str(folder.resolve())})

    async def unload(self, name: str) -> None:
        """Drop an adapter."""
        await self._plain("unload", {"lora_name": name})

    async def post(self, path: str, body: Body) -> dict[str, Any]:
        """A whole answer."""
        with self._failures():
            response = await self._http.post(path, json=body)
        _raise(response.status_code, response.text)
        answer: dict[str, Any] = response.json()
        return answer

    async def events(self, path: str, body: Body) -> AsyncGenerator[dict[str, Any] | None, None]:
        """None once it has accepted, then the bodies of its events."""
        with self._failures():
            async with self._http.stream("POST", path, json=body) as response:
                if response.status_code != 200:
                    _raise(response.status_code, (await response.aread()).decode())
                yield None
                async for line in response.aiter_lines():
                    data = line.removeprefix("data: ")
                    if data == line or data == "[DONE]":
                        continue
                    event = json.loads(data)
                    if "error" in event:
                        raise _told(500, event)
                    yield event

    async def _plain(self, verb: str, body: Body) -> None:
        with self._failures():
            response = await self._http.post(f"/v1/{verb}_lora_adapter", json=body, timeout=LOAD_S)
        _raise(response.status_code, response.text)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (self._httpx.HTTPError, self._httpx.StreamError) as error:
            raise unavailable(f"vLLM does not answer: {type(error).__name__}") from error


def _raise(status: int, text: str) -> None:
    if status < 400:
        return
    try:
        body = json.loads(text)
    except ValueError:
        body = {"message": text[:500]}
    raise _told(status, body if isinstance(body, dict) else {"message": text[:500]})


def _told(status: int, body: Body) -> ApiError:
    """vLLM puts `message` under `error`, or (older ones) at the top; its own code is a number."""
    inner = body.get("error", body)
    inner = inner if isinstance(inner, dict) else {"message": str(inner)}
    message = str(inner.get("message") or "vLLM refused the request")
    code = inner.get("code")
    numeric = isinstance(code, int) and 400 <= code < 600
    return ApiError(
        message,
        status=code if numeric and isinstance(code, int) else status,
        code=code if isinstance(code, str) else "upstream_refused",
        param=inner.get("param"),
    )
