"""The HTTP side: OpenAI's routes, its event streams and its way to say what went wrong."""

import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from labkit.inference.generate import Generation, Piece, encode_prompt
from labkit.inference.sampling import LARGEST_SEED, SamplingConfig
from labkit.model.tokenizer import Tokenizer
from labkit.model.zoo import Loaded
from labkit.serving import schemas
from labkit.serving.engine import Engine, UnknownModelError


def create_app(
    loaded: Loaded,
    adapters: Mapping[str, Path | str] | None = None,
    *,
    base_name: str | None = None,
) -> FastAPI:
    """The application with /v1/models, /v1/completions, /v1/chat/completions and /health.

    Args:
        loaded: The base model.
        adapters: Name in requests to PEFT folder.
        base_name: The base's name in requests; see `Engine`.

    Raises:
        ValueError: An adapter does not fit.
    """
    engine = Engine(loaded, adapters, base_name=base_name)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close()

    app = FastAPI(title="labkit", lifespan=lifespan)
    started = int(time.time())

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        rows = [_model_row(engine, name, started) for name in engine.names]
        return {"object": "list", "data": rows}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        engine.model(name)
        return _model_row(engine, name, started)

    @app.post("/v1/completions")
    async def completions(request: schemas.CompletionRequest) -> Response:
        prompts = _prompts(request.prompt, engine.tokenizer)
        return await _answer(engine, request, prompts, COMPLETION)

    @app.post("/v1/chat/completions")
    async def chat(request: schemas.ChatRequest) -> Response:
        messages = [{"role": m.role, "content": m.text} for m in request.messages]
        prompt = encode_prompt(engine.tokenizer, engine.tokenizer.apply_chat(messages))
        return await _answer(engine, request, [prompt], CHAT)

    _explain_errors(app)
    return app


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Where the two endpoints differ in what they send."""

    prefix: str
    whole: str
    chunk: str
    is_chat: bool

    def choice(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        """One finished text."""
        content: dict[str, Any] = {"text": text}
        if self.is_chat:
            content = {"message": {"role": "assistant", "content": text}}
        return {"index": index, **content, "logprobs": None, "finish_reason": reason}

    def delta(self, text: str, reason: str | None, *, first: bool = False) -> dict[str, Any]:
        """One piece of a stream."""
        if not self.is_chat:
            return self.choice(0, text, reason)
        role = {"role": "assistant"} if first else {}
        delta = {**role, "content": text} if text or first else role
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


COMPLETION = Shape(prefix="cmpl", whole="text_completion", chunk="text_completion", is_chat=False)
CHAT = Shape(
    prefix="chatcmpl", whole="chat.completion", chunk="chat.completion.chunk", is_chat=True
)


async def _answer(
    engine: Engine, request: schemas.GenerationRequest, prompts: list[list[int]], shape: Shape
) -> Response:
    engine.model(request.model)  # an unknown model is told before an unfit prompt
    room = max(engine.max_length - max(map(len, prompts), default=0) + 1, 1)
    limit = room if shape.is_chat else schemas.DEFAULT_COMPLETION_TOKENS
    config = request.sampling(max_new_tokens=limit, seed=secrets.randbelow(LARGEST_SEED))
    head = {
        "id": f"{shape.prefix}-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": request.model,
    }
    if not request.stream:
        texts = await engine.generate(request.model, prompts, config)
        return JSONResponse({**head, "object": shape.whole, **_body(texts, shape)})
    if len(prompts) != 1:
        raise ValueError(f"stream=true takes one prompt, got {len(prompts)}")
    head["object"] = shape.chunk
    options = request.stream_options or schemas.StreamOptions()
    events = _events(engine, request.model, prompts[0], config, shape, head, options.include_usage)
    return StreamingResponse(await _begun(events), media_type="text/event-stream")


def _body(texts: list[Generation], shape: Shape) -> dict[str, Any]:
    choices = [shape.choice(i, text.text, text.finish_reason) for i, text in enumerate(texts)]
    prompt_tokens = sum(text.prompt_tokens for text in texts)
    return {
        "choices": choices,
        "usage": schemas.usage(prompt_tokens, sum(len(text.ids) for text in texts)),
    }


async def _events(
    engine: Engine,
    name: str,
    prompt: list[int],
    config: SamplingConfig,
    shape: Shape,
    head: dict[str, Any],
    include_usage: bool,
) -> AsyncIterator[str]:
    tokens = 0
    pieces: AsyncIterator[Piece] = engine.stream(name, prompt, config)
    yield _event({**head, "choices": [shape.delta("", None, first=True)]})
    async for piece in pieces:
        tokens += 1
        if piece.text or piece.finish_reason:
            yield _event({**head, "choices": [shape.delta(piece.text, piece.finish_reason)]})
    if include_usage:
        yield _event({**head, "choices": [], "usage": schemas.usage(len(prompt), tokens)})
    yield "data: [DONE]\n\n"


async def _begun(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """Take the first event now, so that an unfit request is answered by its status code."""
    first = await anext(events)

    async def all_events() -> AsyncIterator[str]:
        yield first
        async for event in events:
            yield event

    return all_events()


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _model_row(engine: Engine, name: str, created: int) -> dict[str, Any]:
    parent = None if name == engine.base_name else engine.base_name
    row = {"id": name, "object": "model", "created": created, "owned_by": "labkit"}
    return {**row, "parent": parent, "max_model_len": engine.max_length}


def _prompts(
    prompt: str | list[str] | list[int] | list[list[int]], tokenizer: Tokenizer
) -> list[list[int]]:
    """Prompts as token ids: one text, texts, one list of ids, or lists of ids."""
    if isinstance(prompt, str):
        return [encode_prompt(tokenizer, prompt)]
    if not prompt:
        raise ValueError("prompt is an empty list: give at least one prompt")
    if isinstance(prompt[0], int):
        prompt = [prompt]
    ids = [p if isinstance(p, list) else encode_prompt(tokenizer, str(p)) for p in prompt]
    for token in (token for row in ids for token in row):
        if not 0 <= token < tokenizer.vocab_size:
            raise ValueError(f"token {token} is outside the vocabulary of {tokenizer.vocab_size}")
    return ids


def _explain_errors(app: FastAPI) -> None:
    """Answer every error in the API's form."""

    @app.exception_handler(UnknownModelError)
    async def unknown(_: Request, problem: UnknownModelError) -> JSONResponse:
        return _error(404, str(problem), code="model_not_found", param="model")

    @app.exception_handler(ValueError)
    async def unfit(_: Request, problem: ValueError) -> JSONResponse:
        return _error(400, str(problem))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, problem: RequestValidationError) -> JSONResponse:
        first = problem.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:]) or "body"
        value = repr(first.get("input"))[:80]
        return _error(400, f"{name}: {first['msg']} (got {value})", param=name)

    @app.exception_handler(Exception)
    async def failed(_: Request, problem: Exception) -> JSONResponse:
        return _error(500, f"{type(problem).__name__} in the server; its log says more")

    @app.exception_handler(HTTPException)
    async def http(_: Request, problem: HTTPException) -> JSONResponse:
        return _error(problem.status_code, str(problem.detail))


def _error(
    status: int, message: str, *, code: str | None = None, param: str | None = None
) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = schemas.error(message, kind=kind, code=code or str(status), param=param)
    return JSONResponse(body, status_code=status)
