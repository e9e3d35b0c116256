"""The HTTP application over a backend."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from labkit.serving import guards
from labkit.serving.adapter_source import Registry
from labkit.serving.backends.base import Backend
from labkit.serving.config import ServingConfig
from labkit.serving.errors import ApiError, as_api_error
from labkit.serving.gateway import Gateway
from labkit.serving.routes import adapters, openai, operations


def create_app(
    backend: Backend, config: ServingConfig | None = None, registry: Registry | None = None
) -> FastAPI:
    """OpenAI's routes, those for adapters, and those for operations.

    `app.state.gateway` holds the `Gateway`.

    Args:
        backend: Started and closed with the application.
        config: Limits, times, keys.
        registry: Knows adapters by name; default: folders under the configured root.
    """
    config = config or ServingConfig()
    gateway = Gateway(backend, config, registry)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await backend.start()
        try:
            yield
        finally:
            await gateway.shut_down()

    app = FastAPI(title="labkit", lifespan=lifespan)
    app.state.gateway = gateway
    for routes in (openai, adapters, operations):
        app.include_router(routes.router(gateway))
    app.add_middleware(guards.BodyLimit, max_bytes=config.max_body_bytes)
    app.add_middleware(guards.ApiKeys, keys=config.api_keys)  # the outermost
    _explain_errors(app)
    return app


def _explain_errors(app: FastAPI) -> None:
    """Answer every error in the API's form."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, problem: RequestValidationError) -> Response:
        first = problem.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:]) or "body"
        value = repr(first.get("input"))[:80]
        return _response(ApiError(f"{name}: {first['msg']} (got {value})", param=name))

    @app.exception_handler(HTTPException)
    async def http(_: Request, problem: HTTPException) -> Response:
        code = "request_too_large" if problem.status_code == 413 else None
        headers = problem.headers or {}
        error = ApiError(
            str(problem.detail), status=problem.status_code, code=code, headers=headers
        )
        return _response(error)

    @app.exception_handler(ApiError)
    @app.exception_handler(ValueError)
    @app.exception_handler(Exception)
    async def failed(_: Request, problem: Exception) -> Response:
        return _response(as_api_error(problem))


def _response(error: ApiError) -> Response:
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)
