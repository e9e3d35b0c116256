"""OpenAI's routes: models, completions, chats, embeddings."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from labkit.serving.backends.base import Card
from labkit.serving.errors import unknown_model
from labkit.serving.gateway import Gateway
from labkit.serving.schemas.chat import ChatRequest
from labkit.serving.schemas.generation import CompletionRequest, GenerationRequest
from labkit.serving.schemas.others import EmbeddingRequest
from labkit.serving.trace import Trace


def router(gateway: Gateway) -> APIRouter:
    """The routes over one gateway."""
    routes = APIRouter(prefix="/v1")

    @routes.get("/models")
    async def models() -> Response:
        rows = [row(card, gateway.started_s) for card in gateway.backend.cards()]
        return JSONResponse({"object": "list", "data": rows})

    @routes.get("/models/{name:path}")
    async def model(name: str) -> Response:
        cards = gateway.backend.cards()
        for card in cards:
            if name in (card.name, card.root):
                return JSONResponse(row(card, gateway.started_s))
        raise unknown_model(name, [card.name for card in cards])

    @routes.post("/completions")
    async def completions(request: Request, body: CompletionRequest) -> Response:
        return await _answer(gateway, request, body, "/v1/completions")

    @routes.post("/chat/completions")
    async def chat(request: Request, body: ChatRequest) -> Response:
        return await _answer(gateway, request, body, "/v1/chat/completions")

    @routes.post("/embeddings")
    async def embed(request: Request, body: EmbeddingRequest) -> Response:
        trace = Trace(gateway.metrics, "/v1/embeddings")
        return await gateway.whole(request, trace, 1, lambda: gateway.backend.embed(body, trace))

    return routes


def row(card: Card, created_s: int) -> dict[str, Any]:
    """A model as the API lists it."""
    return {
        "id": card.name,
        "object": "model",
        "created": created_s,
        "owned_by": "labkit",
        "parent": card.parent,
        "root": card.root,
        "max_model_len": card.max_length,
    }


async def _answer(
    gateway: Gateway, request: Request, body: GenerationRequest, route: str
) -> Response:
    trace = Trace(gateway.metrics, route)
    if body.stream:
        return await gateway.stream(request, body, trace)
    return await gateway.whole(
        request, trace, body.sequences, lambda: gateway.backend.answer(body, trace)
    )
