"""The queue, the clock, the door and the end: 429, 504, 401, 413, 503, in OpenAI's form."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from labkit.serving.admission import Admission
from labkit.serving.backends.build import engine_backend
from labkit.serving.config import ServingConfig
from labkit.serving.errors import ApiError
from tests.labkit.serving.running import serving, wait_until

LONG = {"model": "byte", "prompt": "a", "max_tokens": 170, "temperature": 0}
NEVER_ENDS = {**LONG, "extra_body": {"ignore_eos": True}}


class Held:
    """An engine whose steps wait while it is held."""

    def __init__(self, backend):
        self.engine, self.step = backend.engine, backend.engine.step
        self.gate = threading.Event()
        self.gate.set()
        backend.engine.step = self._held

    def _held(self):
        self.gate.wait()
        return self.step()


@pytest.fixture
def backend(byte_loaded, small):
    return engine_backend(byte_loaded, engine=small)


def test_admission_counts_exactly():
    admission = Admission(running=2, waiting=1)
    with admission.enter(2), admission.enter(1):
        with pytest.raises(ApiError) as caught, admission.enter(1):
            pytest.fail("a fourth text came in")
        assert caught.value.status == 429
        assert int(caught.value.headers["Retry-After"]) >= 1
    assert admission.in_flight == 0
    with pytest.raises(ApiError, match="at most 3") as caught, admission.enter(4):
        pytest.fail("more than there can be")
    assert caught.value.status == 400
    admission.draining = True
    with pytest.raises(ApiError) as caught, admission.enter(1):
        pytest.fail("it is closing")
    assert caught.value.status == 503


def test_a_full_queue_is_429_and_says_when_to_come_again(backend):
    held = Held(backend)
    with serving(backend, ServingConfig(max_waiting=1)) as served, served.client() as client:
        held.gate.clear()
        with ThreadPoolExecutor(5) as pool:
            under_way = [pool.submit(client.completions.create, **LONG) for _ in range(5)]
            wait_until(lambda: served.gateway.admission.in_flight == 5)
            with pytest.raises(openai.RateLimitError) as caught:
                client.completions.create(**LONG, stream=True)
            held.gate.set()
            assert all(future.result().choices for future in under_way)
        assert caught.value.code == "queue_full"
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
        assert served.gateway.admission.in_flight == 0
        assert b"labkit_refused_requests_total 1.0" in served.gateway.metrics.render()


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_is_ended(backend, stream):
    held = Held(backend)
    config = ServingConfig(request_timeout_s=0.2)
    with serving(backend, config) as served, served.client() as client:
        client.completions.create(**{**LONG, "max_tokens": 1})
        held.gate.clear()
        threading.Timer(0.6, held.gate.set).start()  # the step itself must end in the end
        if stream:
            with pytest.raises(openai.APIError, match=r"longer than 0\.2 s"):
                list(client.completions.create(**NEVER_ENDS, stream=True))
        else:
            with pytest.raises(openai.APIStatusError) as caught:
                client.completions.create(**NEVER_ENDS)
            assert caught.value.status_code == 504
            assert caught.value.response.headers["x-should-retry"] == "false"
        wait_until(lambda: backend.engine.unfinished == 0)
        backend.engine.check_integrity()


def test_api_keys(backend):
    with serving(backend, ServingConfig(api_keys=("secret", "säcret"))) as served:
        for key in ("secret", "säcret".encode().decode("latin-1")):
            header = {"Authorization": f"Bearer {key}".encode("latin-1")}
            assert httpx.get(f"{served.url}/v1/models", headers=header).status_code == 200
        for header in ({}, {"Authorization": "Bearer secre"}, {"Authorization": "secret"}):
            for path in ("/v1/models", "/metrics", "/v1/nothing", "/openapi.json"):
                answer = httpx.get(served.url + path, headers=header)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(f"{served.url}/health").status_code == 200
        assert httpx.get(f"{served.url}/ready").status_code == 200


def test_large_bodies_and_long_prompts(client, url):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="byte", prompt="x" * 1_000_000)
    assert caught.value.code == "context_length_exceeded"
    body = b'{"model": "byte", "prompt": "' + b"x" * 2**20 + b'"}'
    answer = httpx.post(f"{url}/v1/completions", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")

    def chunks():
        for _ in range(40):
            yield b"x" * 2**15

    answer = httpx.post(f"{url}/v1/completions", content=chunks())  # no length announced
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


def test_deeply_nested_bodies_are_400(url):
    for body in (b"[" * 100_000, b'{"a":' * 50_000):
        assert httpx.post(f"{url}/v1/completions", content=body).status_code == 400


def test_shutdown_lets_what_runs_end_and_refuses_the_rest(backend):
    with serving(backend, ServingConfig(grace_s=30.0)) as served, served.client() as client:
        stream = client.completions.create(**NEVER_ENDS, stream=True)
        pieces = [next(iter(stream))]
        served.gateway.admission.draining = True
        with pytest.raises(openai.InternalServerError) as caught:
            client.completions.create(**LONG)
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == "5"
        assert httpx.get(f"{served.url}/ready").status_code == 503
        assert httpx.get(f"{served.url}/health").status_code == 200
        served.running.should_exit = True
        pieces += list(stream)
        assert pieces[-1].choices[0].finish_reason == "length"


def test_the_grace_ends(backend):
    held = Held(backend)
    began = time.monotonic()
    with serving(backend, ServingConfig(grace_s=0.1)) as served, served.client() as client:
        stream = client.completions.create(**NEVER_ENDS, stream=True)
        next(iter(stream))
        held.gate.clear()
        served.running.should_exit = True
        threading.Timer(0.5, held.gate.set).start()
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
    assert time.monotonic() - began < 60
    assert backend.engine.unfinished == 0
    backend.engine.check_integrity()


def test_limits_that_contradict_themselves():
    for fields in ({"max_waiting": -1}, {"request_timeout_s": 0.0}, {"api_keys": ("",)}):
        with pytest.raises(ValueError, match=next(iter(fields)).replace("api_keys", "API key")):
            ServingConfig(**fields)
