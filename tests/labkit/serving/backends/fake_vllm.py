"""A server with vLLM's routes and manners: answers name the model and the adapter's folder."""

import argparse
import json
import os
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

app = FastAPI()
adapters: dict[str, str] = {}


def failure(status: int, message: str) -> Response:
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
    return JSONResponse({"error": error}, status_code=status)


@app.get("/health")
async def health() -> Response:
    return Response()


@app.get("/v1/models")
async def models() -> Response:
    names = ["base", *adapters]
    return JSONResponse({"data": [{"id": name, "max_model_len": 123} for name in names]})


@app.post("/v1/load_lora_adapter")
async def load(request: Request) -> Response:
    body = await request.json()
    if body["lora_name"] in adapters:
        return failure(400, "already loaded")
    if not (Path(body["lora_path"]) / "adapter_config.json").is_file():
        return failure(404, "no adapter found")
    adapters[body["lora_name"]] = Path(body["lora_path"]).name
    return PlainTextResponse("Success")


@app.post("/v1/unload_lora_adapter")
async def unload(request: Request) -> Response:
    adapters.pop((await request.json())["lora_name"])
    return PlainTextResponse("Success")


@app.post("/v1/completions")
@app.post("/v1/chat/completions")
async def complete(request: Request) -> Response:
    body = await request.json()
    if body["model"] not in {"base", *adapters}:
        return failure(404, f"{body['model']} does not exist")
    if body.get("seed") == 13:
        os._exit(3)
    if body.get("seed") == 12:
        return failure(400, "an unlucky seed")
    text = f"{body['model']} {adapters.get(body['model'], '')}"
    choice = {"index": 0, "text": text, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    head = {"id": "x", "model": body["model"]}
    if not body.get("stream"):
        return JSONResponse({**head, "choices": [choice], "usage": usage})

    async def events():
        for part in text.split(" "):
            yield f"data: {json.dumps({**head, 'choices': [{**choice, 'text': part}]})}\n\n"
        yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    uvicorn.run(app, port=parser.parse_args().port, log_level="error")
