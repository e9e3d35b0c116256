"""The requests that lab 12's endpoint is checked with. Runs outside the sandbox only."""

import json
from typing import Any

import numpy as np

from grader.checks.core import Arrays

STEMS = ("finance", "medical", "python", "poetry", "law")
COMPLETE, LOAD, UNLOAD = "/v1/completions", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


def _good_requests(name: str, prompt: str) -> dict[str, tuple[str, Any]]:
    old = f"{name}@v1"
    return {
        "by version": (COMPLETE, {"model": f"{name}@v2", "prompt": prompt, "max_tokens": 9}),
        "by stem": (COMPLETE, {"model": name, "prompt": prompt}),
        "the base": (COMPLETE, {"model": "__base__", "prompt": prompt, "stream": False}),
        "cut by length": (COMPLETE, {"model": name, "prompt": prompt, "max_tokens": 2}),
        "an end at the limit": (COMPLETE, {"model": name, "prompt": prompt, "max_tokens": 4}),
        "stream": (COMPLETE, {"model": name, "prompt": prompt, "stream": True}),
        "stream cut by length": (
            COMPLETE, {"model": name, "prompt": prompt, "stream": True, "max_tokens": 3},
        ),
        "unknown adapter": (COMPLETE, {"model": "nobody", "prompt": prompt}),
        "unknown adapter, streamed": (COMPLETE, {"model": "x", "prompt": prompt, "stream": True}),
        "draining adapter": (COMPLETE, {"model": old, "prompt": prompt}),
        "the model crashes": (COMPLETE, {"model": name, "prompt": "crash 2"}),
        "the model crashes at once": (COMPLETE, {"model": name, "prompt": "crash 0"}),
        "the model crashes in a stream": (
            COMPLETE, {"model": name, "prompt": "crash 2", "stream": True},
        ),
        "mount": (LOAD, {"lora_name": "new", "lora_path": "good/new"}),
        "mount what is no adapter": (LOAD, {"lora_name": "new", "lora_path": "bad/new"}),
        "mount where no room is": (LOAD, {"lora_name": "new", "lora_path": "good/new"}),
        "unmount": (UNLOAD, {"lora_name": name}),
        "unmount one that drains": (UNLOAD, {"lora_name": old}),
        "unmount an unknown one": (UNLOAD, {"lora_name": "nobody"}),
    }  # fmt: skip


def _bad_requests(name: str, prompt: str) -> dict[str, tuple[str, Any]]:
    right = {"model": name, "prompt": prompt}
    return {
        "no JSON": (COMPLETE, "{model: 1}"),
        "an empty body": (COMPLETE, ""),
        "nested without end": (COMPLETE, "[" * 200_000),
        "a list": (COMPLETE, [right]),
        "null": (LOAD, None),
        "no model": (COMPLETE, {"prompt": prompt}),
        "model is a number": (COMPLETE, right | {"model": 7}),
        "prompt is a list": (COMPLETE, right | {"prompt": [prompt]}),
        "max_tokens is a string": (COMPLETE, right | {"max_tokens": "9"}),
        "max_tokens is true": (COMPLETE, right | {"max_tokens": True}),
        "max_tokens is 0": (COMPLETE, right | {"max_tokens": 0}),
        "max_tokens is null": (COMPLETE, right | {"max_tokens": None}),
        "stream is 1": (COMPLETE, right | {"stream": 1}),
        "an unknown field": (COMPLETE, right | {"lora_path": "good/x"}),
        "wrong field, unknown adapter": (COMPLETE, {"model": "x", "prompt": prompt, "stream": 0}),
        "no path": (LOAD, {"lora_name": "new"}),
        "path is null": (LOAD, {"lora_name": "new", "lora_path": None}),
        "name is a list": (UNLOAD, {"lora_name": [name]}),
    }


def handle_inputs(rng: np.random.Generator) -> Arrays:
    name, prompt = str(rng.choice(STEMS)), f"{rng.integers(10, 99)} and on"
    uid = int(rng.integers(2, 90))
    live = {name: uid, f"{name}@v2": uid, "zebra": uid + 1, "zebra@v3": uid + 1}
    requests = [
        (kind, "POST", path, body if type(body) is str else json.dumps(body))
        for kind, (path, body) in (
            _good_requests(name, prompt) | _bad_requests(name, prompt)
        ).items()
    ]
    requests += [
        ("models", "GET", "/v1/models", ""),
        ("models by POST", "POST", "/v1/models", "{}"),
        ("completions by GET", "GET", COMPLETE, ""),
        ("an unknown path", "POST", "/v1/adapters", "{}"),
    ]
    return {
        "cases": [
            {
                "kind": kind,
                "method": method,
                "path": path,
                "body": body,
                "live": live,
                "draining": [f"{name}@v1"],
                "room": 0 if "no room" in kind else 1,
            }
            for kind, method, path, body in requests
        ]
    }
