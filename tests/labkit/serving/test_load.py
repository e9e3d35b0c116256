"""The load generator against the real server: every token is counted."""

import asyncio

import httpx
import numpy as np
import pytest

from labkit.evaluation import load
from labkit.inference.engine_config import EngineConfig
from labkit.serving.backends.build import engine_backend
from labkit.serving.config import ServingConfig
from tests.labkit.serving.running import serving

LENGTHS = [1, 9, 17, 5, 12, 3, 20, 8]


def bodies(kind: str) -> list[dict]:
    prompt = (
        {"prompt": "Hello"} if kind == "text" else {"messages": [{"role": "user", "content": "?"}]}
    )
    options = {"model": "byte", "temperature": 0, "ignore_eos": True}
    return [{**options, **prompt, "max_tokens": length} for length in LENGTHS]


@pytest.mark.parametrize("kind", ["text", "chat"])
@pytest.mark.parametrize("clients", [None, 3])
def test_every_token_of_a_load_is_counted(byte_loaded, kind: str, clients: int | None) -> None:
    with serving(engine_backend(byte_loaded)) as served:
        if clients is None:
            due = load.poisson(200.0, len(LENGTHS), np.random.default_rng(2))
            running = load.open_loop(served.url, bodies(kind), due)
        else:
            running = load.closed_loop(served.url, bodies(kind), clients=clients)
        outcomes = asyncio.run(running)
        page = httpx.get(f"{served.url}/metrics").text
    assert all(outcome.ok for outcome in outcomes), outcomes
    assert [outcome.tokens for outcome in outcomes] == LENGTHS
    assert f'labkit_generation_tokens_total{{model="byte"}} {float(sum(LENGTHS))}' in page
    for outcome in outcomes:
        assert 0 < outcome.first_token_s <= outcome.end_s
        assert list(outcome.events_s) == sorted(outcome.events_s)
    if clients is None:
        assert [outcome.due_s for outcome in outcomes] == due
    summary = load.summarize(outcomes, load.Objective(first_token_s=600.0, per_token_s=600.0))
    assert summary.completed == len(LENGTHS)
    assert summary.goodput_per_s == pytest.approx(len(LENGTHS) / summary.duration_s)


def test_an_overloaded_server_refuses_some_and_serves_the_rest(byte_loaded) -> None:
    backend = engine_backend(byte_loaded, engine=EngineConfig(max_batch=1))
    with serving(backend, ServingConfig(max_waiting=1)) as served:
        outcomes = asyncio.run(load.open_loop(served.url, bodies("text") * 2, [0.0] * 16))
    summary = load.summarize(outcomes)
    assert summary.completed >= 1
    assert summary.refused >= 1
    assert summary.failed == 0
