"""A thousand streams, clients that leave at any time, and nothing left behind."""

import asyncio
import random
from dataclasses import replace

import httpx
import pytest

from labkit.inference.engine_config import EngineConfig
from labkit.serving.backends.build import engine_backend
from labkit.serving.config import ServingConfig
from tests.labkit.serving.running import serving, wait_until

STREAMS = 1000
IMPATIENT = httpx.Timeout(280.0, read=1e-3)
SIZES = EngineConfig(max_batch=64, token_budget=256, num_pages=400, page_size=8, max_adapters=3)


async def one(client: httpx.AsyncClient, index: int, rng: random.Random) -> str:
    """Stream a text, or leave it after some events; what became of it."""
    body = {
        "model": rng.choice(["byte", "red", "blue"]),
        "prompt": f"prompt {index % 7}",
        "max_tokens": rng.randint(1, 12),
        "temperature": 1.0,
        "stream": rng.random() < 0.9,
        "ignore_eos": True,
    }
    leaves_after = rng.choice([None, None, 0, 1, 3])
    if not body["stream"]:
        if leaves_after is not None:
            with pytest.raises(httpx.ReadTimeout):
                await client.post("/v1/completions", json=body, timeout=IMPATIENT)
            return "left"
        return str((await client.post("/v1/completions", json=body)).status_code)
    async with client.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200
        events = 0
        async for line in response.aiter_lines():
            events += bool(line)
            if leaves_after is not None and events > leaves_after:
                return "left"
            if line == "data: [DONE]":
                return "200"
    return "cut"


def test_a_thousand_streams_with_random_disconnects_leave_nothing(byte_loaded, adapters):
    backend = engine_backend(byte_loaded, adapters, engine=SIZES)
    with serving(backend, ServingConfig(max_waiting=STREAMS)) as served:

        async def main() -> list[str]:
            rng = random.Random(0)
            limits = httpx.Limits(max_connections=STREAMS, max_keepalive_connections=0)
            async with httpx.AsyncClient(base_url=served.url, limits=limits, timeout=280) as client:
                return await asyncio.gather(*(one(client, i, rng) for i in range(STREAMS)))

        ends = asyncio.run(main())
        assert len(ends) == STREAMS
        assert set(ends) == {"200", "left"}
        assert ends.count("left") > STREAMS // 4
        worker = backend.worker
        wait_until(lambda: backend.engine.unfinished == 0 and not worker._keys)
        wait_until(lambda: served.gateway.admission.in_flight == 0)
        assert not worker._tickets
        assert not worker._queued
        load = backend.load()
        assert load.pages_used == 0
        assert set(load.adapters.values()) == {0}
        backend.engine.check_integrity()
        wait_until(lambda: len(served.running.server_state.tasks) == 0)
        wait_until(lambda: not served.running.server_state.connections)
        with served.client() as client:
            assert client.completions.create(model="red", prompt="a", max_tokens=1).choices


def test_a_client_killed_in_the_middle_disturbs_nobody(byte_loaded, small):
    backend = engine_backend(byte_loaded, engine=replace(small, num_pages=100))
    with serving(backend) as served, served.client() as client:
        request = {"model": "byte", "prompt": "Hello", "max_tokens": 100, "temperature": 0}
        request["extra_body"] = {"ignore_eos": True}
        alone = client.completions.create(**request).choices[0].text
        stream = client.completions.create(**request, stream=True)
        pieces = [next(iter(stream)).choices[0].text]
        other = client.completions.create(**request, stream=True)
        next(iter(other))
        other.response.extensions["network_stream"].get_extra_info("socket").close()
        assert httpx.post(f"{served.url}/v1/completions", content=b"{bad").status_code == 400
        pieces += [chunk.choices[0].text for chunk in stream]
        assert "".join(pieces) == alone
        wait_until(lambda: backend.engine.unfinished == 0)
        backend.engine.check_integrity()
