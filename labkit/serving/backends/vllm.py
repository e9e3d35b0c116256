"""A managed vLLM server as a backend: requests are passed on, its adapters are kept as they should.

Between its death and the end of reconciling, requests are answered 503.
"""

import asyncio
import logging
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from labkit.serving.backends import vllm_process
from labkit.serving.backends.base import ACCEPTED, Body, Card
from labkit.serving.backends.vllm_adapters import BASE, VllmAdapters
from labkit.serving.backends.vllm_client import VllmClient
from labkit.serving.backends.vllm_process import Upstream
from labkit.serving.errors import ApiError, unavailable, unknown_model
from labkit.serving.schemas.chat import ChatRequest
from labkit.serving.schemas.generation import CompletionRequest, GenerationRequest
from labkit.serving.schemas.others import EmbeddingRequest
from labkit.serving.step_engine import Load
from labkit.serving.trace import Trace

log = logging.getLogger(__name__)
POLL_S = 0.1
MOST_BACKOFF_S = 30.0


class VllmBackend:
    """A `Backend` that passes requests on to a server of its own.

    Args:
        upstream: How that is started.
        base_name: The base's name in requests.
        max_batch: Texts it runs at once.
        max_adapters: Most that are mounted at a time.
        max_rank: Highest rank.
    """

    def __init__(
        self,
        upstream: Upstream,
        base_name: str,
        *,
        max_batch: int,
        max_adapters: int,
        max_rank: int,
    ) -> None:
        self.base_name, self.max_batch, self.restarts = base_name, max_batch, 0
        self._upstream, self._client = upstream, VllmClient(upstream.url)
        self.adapters = VllmAdapters(self._client, max_adapters=max_adapters, max_rank=max_rank)
        self._why = "vLLM has not been started"
        self._process: Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._length, self._in_flight = 0, 0

    async def start(self) -> None:
        try:
            await self._begin()
        except BaseException:
            await self._end()
            raise
        self._supervisor = asyncio.create_task(self._supervise())

    async def close(self) -> None:
        self._why = "the server is shutting down"
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait({self._supervisor})
        await self._end()
        await self._client.close()

    def unready(self) -> str:
        return self._why

    def cards(self) -> list[Card]:
        length = self._length
        base = Card(name=self.base_name, parent=None, root=self.base_name, max_length=length)
        return [base] + [
            Card(name=name, parent=self.base_name, root=root, max_length=length)
            for name, root in self.adapters.roster.aliases.items()
        ]

    def load(self) -> Load:
        running = min(self._in_flight, self.max_batch)
        entries = self.adapters.roster.entries
        return Load(
            running=running,
            waiting=self._in_flight - running,
            adapters={entry.name: entry.requests for entry in entries},
        )

    async def answer(self, request: GenerationRequest, trace: Trace) -> Body:
        async with self._passing(request, trace) as body:
            answer = await self._client.post(_path(request), body)
        usage = answer.get("usage") or {}
        trace.accepted(int(usage.get("prompt_tokens") or 0))
        if count := int(usage.get("completion_tokens") or 0):
            trace.token(count=count)
        return {**answer, "model": request.model}

    async def events(self, request: GenerationRequest, trace: Trace) -> AsyncGenerator[Body, None]:
        async with (
            self._passing(request, trace) as body,
            aclosing(self._client.events(_path(request), body)) as events,
        ):
            async for event in events:
                if event is None:
                    yield ACCEPTED
                    continue
                if event.get("choices"):
                    trace.token(int(event["choices"][0].get("index") or 0))
                elif event.get("usage"):
                    trace.accepted(int(event["usage"].get("prompt_tokens") or 0))
                    if not (request.stream_options and request.stream_options.include_usage):
                        continue  # asked for by us alone
                yield {**event, "model": request.model}

    async def embed(self, request: EmbeddingRequest, trace: Trace) -> Body:
        raise ApiError(
            "vLLM serves this model for generation, not for embeddings: use the engine backend",
            status=501,
            code="not_supported",
            headers={"x-should-retry": "false"},
        )

    async def load_adapter(self, name: str, folder: Path) -> Card:
        if self._why:
            raise unavailable(self._why)
        await self.adapters.load(name, folder)
        return next(card for card in self.cards() if name in (card.name, card.root))

    async def unload_adapter(self, name: str) -> None:
        await self.adapters.unload(name)

    @asynccontextmanager
    async def _passing(self, request: GenerationRequest, trace: Trace) -> AsyncIterator[Body]:
        """The body to send, while the request is counted for its adapter."""
        adapter = None if request.model == self.base_name else request.model
        roster = self.adapters.roster
        if adapter is not None and adapter not in {*roster.aliases, *roster.names}:
            raise unknown_model(adapter, [card.name for card in self.cards()])
        trace.of(request.model, adapter)
        if isinstance(request, CompletionRequest) and request.best_of not in (None, request.n or 1):
            raise ApiError("vLLM has no best_of: rank n texts by their logprobs", param="best_of")
        if self._why:
            raise unavailable(self._why)
        async with self.adapters.using(adapter) as name:
            self._in_flight += 1
            try:
                fields: dict[str, Any] = request.model_dump(exclude_unset=True, by_alias=True)
                if request.stream:
                    asked = fields.get("stream_options") or {}
                    fields["stream_options"] = {**asked, "include_usage": True}
                yield {**fields, "model": name}
            finally:
                self._in_flight -= 1

    async def _begin(self) -> None:
        """Start the server; it is ready when it is healthy and has its adapters."""
        await self._client.reset()
        self._process = await vllm_process.launch(self._upstream)
        deadline = asyncio.get_running_loop().time() + self._upstream.start_s
        while not await self._client.healthy():
            if self._process.returncode is not None:
                raise RuntimeError(
                    f"vLLM ended with status {self._process.returncode} before it was healthy"
                )
            if asyncio.get_running_loop().time() > deadline:
                raise RuntimeError(f"vLLM was not healthy within {self._upstream.start_s:g} s")
            await asyncio.sleep(POLL_S)
        self._length = (await self._client.models()).get(BASE, 0)
        await self.adapters.reconcile()
        self._why = ""

    async def _supervise(self) -> None:
        """Start the server again whenever it ends."""
        backoff_s = POLL_S
        while True:
            assert self._process is not None
            status = await self._process.wait()
            self._why = f"vLLM ended with status {status} and is being started again"
            log.error("%s", self._why)
            self.restarts += 1
            try:
                await asyncio.sleep(backoff_s)
                await self._begin()
                backoff_s = POLL_S
            except (RuntimeError, ApiError, OSError) as error:
                log.error("vLLM could not be started again: %s", error)
                backoff_s = min(2 * backoff_s, MOST_BACKOFF_S)
                await self._end()

    async def _end(self) -> None:
        if self._process is not None:
            await vllm_process.end(self._process)


def _path(request: GenerationRequest) -> str:
    return "/v1/chat/completions" if isinstance(request, ChatRequest) else "/v1/completions"
