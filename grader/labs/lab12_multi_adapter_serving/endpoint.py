"""A right endpoint for lab 12, written from its table of fields."""

import json
from typing import Any

from labkit.inference.adapters.names import BASE

FIELDS: dict[str, dict[str, tuple[type, Any]]] = {
    "/v1/completions": {
        "model": (str, ...), "prompt": (str, ...), "max_tokens": (int, 16), "stream": (bool, False),
    },
    "/v1/load_lora_adapter": {"lora_name": (str, ...), "lora_path": (str, ...)},
    "/v1/unload_lora_adapter": {"lora_name": (str, ...)},
}  # fmt: skip


def handle(request: dict[str, str], service: Any) -> tuple[int, Any]:
    """Validated against the table of fields, then to one of four answers."""
    path, method = request["path"], request["method"]
    if path != "/v1/models" and path not in FIELDS:
        return _error(404, "not_found")
    if method != ("POST" if path in FIELDS else "GET"):
        return _error(405, "method_not_allowed")
    if path == "/v1/models":
        return 200, {"object": "list", "data": [*map(_model, [BASE, *service.names()])]}
    try:
        body = json.loads(request["body"])
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        return _error(400, "invalid_body")
    fields = FIELDS[path]
    wrong = [name for name in (*fields, *body) if not _fits(name, fields, body)]
    if wrong:
        return _error(400, "invalid_value", wrong[0])
    given = {name: default for name, (_, default) in fields.items()} | body
    try:
        return _answers(path, given, service)
    except KeyError:
        param = next(iter(fields))
        gone = given[param] in service.draining()
        return (
            _error(409, "adapter_draining", param)
            if gone
            else _error(404, "model_not_found", param)
        )


def _fits(name: str, fields: dict[str, tuple[type, Any]], body: dict[str, Any]) -> bool:
    kind, default = fields.get(name, (None, ...))
    value: Any = body.get(name, default)
    too_small = name == "max_tokens" and type(value) is int and value < 1
    return type(value) is kind and not too_small


def _answers(path: str, given: dict[str, Any], service: Any) -> tuple[int, Any]:
    if path == "/v1/unload_lora_adapter":
        name = given["lora_name"]
        return 200, {"id": name, "draining": not service.unmount(name)}
    if path == "/v1/load_lora_adapter":
        try:
            return 200, _model(service.load(given["lora_name"], given["lora_path"]))
        except ValueError:
            return _error(400, "invalid_adapter", "lora_path")
        except OverflowError:
            return _error(503, "no_room")
    uid = service.acquire(given["model"])
    pieces, failed = [], False
    try:
        pieces.extend(service.generate(uid, given["prompt"], given["max_tokens"]))
    except Exception:
        failed = True
    finally:
        service.release(uid)
    reason = "length" if len(pieces) == given["max_tokens"] else "stop"
    if given["stream"]:
        texts = [*((piece, None) for piece in pieces), *([] if failed else [("", reason)])]
        chunks = [_event(_completion(given["model"], *text)) for text in texts]
        return 200, [*chunks, _event(_error(500, "server_error")[1]) if failed else DONE]
    if failed:
        return _error(500, "server_error")
    whole = _completion(given["model"], "".join(pieces), reason)
    return 200, whole | {"usage": {"completion_tokens": len(pieces)}}


DONE = "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _model(name: str) -> dict[str, str]:
    return {"id": name, "object": "model"}


def _completion(model: str, text: str, reason: str | None) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "finish_reason": reason}
    return {"object": "text_completion", "model": model, "choices": [choice]}


def _error(status: int, code: str, param: str | None = None) -> tuple[int, dict[str, Any]]:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    message = f"{code}: {param}"
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}
