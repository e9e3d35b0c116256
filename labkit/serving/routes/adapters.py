"""Adapters mounted and taken off while the server runs, and text from one by a plain route."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from labkit.serving.backends.base import Body
from labkit.serving.errors import NO_RETRY, ApiError
from labkit.serving.gateway import Gateway
from labkit.serving.routes.openai import row
from labkit.serving.schemas.generation import CompletionRequest, GenerateRequest
from labkit.serving.schemas.others import LoadAdapterRequest, UnloadAdapterRequest
from labkit.serving.trace import Trace


def router(gateway: Gateway) -> APIRouter:
    """The routes over one gateway."""
    routes = APIRouter()

    @routes.post("/v1/load_lora_adapter")
    async def load(body: LoadAdapterRequest) -> Response:
        folder = gateway.adapters.folder(body.lora_name, body.lora_path)
        async with gateway.mounting:
            _refuse_taken(gateway, body)
            card = await gateway.backend.load_adapter(body.lora_name, folder)
        return JSONResponse(row(card, gateway.started_s))

    @routes.post("/v1/unload_lora_adapter")
    async def unload(body: UnloadAdapterRequest) -> Response:
        if body.lora_name == gateway.backend.base_name:
            raise ApiError("the base model cannot be unloaded", param="lora_name")
        async with gateway.mounting:
            await gateway.backend.unload_adapter(body.lora_name)
        return JSONResponse({"id": body.lora_name, "object": "model", "deleted": True})

    @routes.post("/generate")
    async def generate(
        request: Request, body: GenerateRequest, adapter: str | None = None
    ) -> Response:
        trace = Trace(gateway.metrics, "/generate")
        wanted = _as_completion(body, adapter or gateway.backend.base_name)

        async def work() -> Body:
            return _plain(await gateway.backend.answer(wanted, trace), adapter)

        return await gateway.whole(request, trace, wanted.sequences, work)

    return routes


def _refuse_taken(gateway: Gateway, body: LoadAdapterRequest) -> None:
    name = body.lora_name
    mounted = {known for card in gateway.backend.cards() for known in (card.name, card.root)}
    is_base = name.partition("@")[0] == gateway.backend.base_name
    if is_base or (name in mounted and not body.load_inplace):
        way_out = "take another one" if is_base else "unload it first, or set load_inplace"
        raise ApiError(
            f"the name {name!r} is taken: {way_out}",
            status=409,
            code="adapter_exists",
            param="lora_name",
            headers=NO_RETRY,
        )


def _as_completion(body: GenerateRequest, model: str) -> CompletionRequest:
    return CompletionRequest(
        model=model,
        prompt=body.prompt,
        max_tokens=body.max_new_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        n=body.num_return_sequences,
        seed=body.seed,
        stop=body.stop,
    )


def _plain(answer: Body, adapter: str | None) -> dict[str, Any]:
    texts = [
        {"text": choice["text"], "finish_reason": choice["finish_reason"]}
        for choice in answer["choices"]
    ]
    return {"adapter": adapter, "texts": texts, "usage": answer["usage"]}
