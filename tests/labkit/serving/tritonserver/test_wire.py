"""Clients of a real Triton server get, over HTTP and gRPC, what labkit generates without it."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import Queue
from typing import Any

import httpx
import numpy as np
import pytest

from labkit.serving.tritonserver.repository import BATCH_MODEL, STREAM_MODEL

pytestmark = pytest.mark.tritonserver

ADAPTERS = ["", "red", "blue"]
BATCH = f"/v2/models/{BATCH_MODEL}"
STREAM = f"/v2/models/{STREAM_MODEL}"
UNKNOWN = "no adapter 'green' is mounted: this model has red, blue"


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The data of server-sent events."""
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def inputs(module, values, shape=(1,)):
    """Input tensors of tritonclient's http or grpc module."""
    types = {"prompt": "BYTES", "adapter": "BYTES", "max_tokens": "INT32", "temperature": "FP32"}
    numpy_types = {"BYTES": np.object_, "INT32": np.int32, "FP32": np.float32}
    made = []
    for name, value in values.items():
        array = np.array(value, dtype=numpy_types[types[name]]).reshape(shape)
        made.append(module.InferInput(name, list(shape), types[name]))
        made[-1].set_data_from_numpy(array)
    return made


@contextmanager
def grpc_stream(server) -> Iterator[tuple[Any, Queue[Any]]]:
    """A client with an open stream, and its answers; streams under way at the end are cancelled."""
    import tritonclient.grpc as triton

    answers: Queue[Any] = Queue()
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        try:
            yield client, answers
        finally:
            client.stop_stream(cancel_requests=True)


def metric(server, name, **labels):
    """The sum of a metric's samples with these labels."""
    total = 0.0
    for line in httpx.get(f"http://{server.metrics}/metrics").text.splitlines():
        wanted = line.startswith(name + "{")
        if wanted and all(f'{key}="{value}"' in line for key, value in labels.items()):
            total += float(line.rsplit(" ", 1)[1])
    return total


def test_server_is_ready_and_has_read_the_configurations(http):
    assert http.get("/v2/health/live").status_code == 200
    assert http.get("/v2/health/ready").status_code == 200
    for model in (BATCH, STREAM):
        assert http.get(f"{model}/ready").status_code == 200
    batch = http.get(f"{BATCH}/config").json()
    assert batch["max_batch_size"] == 16
    assert batch["dynamic_batching"]["preferred_batch_size"] == [8]
    assert batch["dynamic_batching"]["max_queue_delay_microseconds"] == 333_333
    stream = http.get(f"{STREAM}/config").json()
    assert stream["model_transaction_policy"]["decoupled"]
    required = [tensor["name"] for tensor in batch["input"] if not tensor["optional"]]
    assert required == ["prompt", "adapter"]


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("temperature", [0.0, 1.25])
def test_http_stream_is_the_direct_generation(http, direct, adapter, temperature):
    expected = direct(adapter, "Grüße", max_new_tokens=24, temperature=temperature, seed=5)
    body = {"prompt": "Grüße", "max_tokens": 24, "temperature": temperature, "seed": 5}
    if adapter:
        body["adapter"] = adapter
    with http.stream("POST", f"{STREAM}/generate_stream", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        pieces = list(events(response))
    assert [piece["token"] for piece in pieces] == expected.ids
    assert "".join(piece["text"] for piece in pieces) == expected.text
    ends = [piece["finish_reason"] for piece in pieces]
    assert ends == [""] * (len(pieces) - 1) + [expected.finish_reason]


def test_adapters_and_base_differ(direct):
    assert len({direct(adapter, "Hello", max_new_tokens=20).text for adapter in ADAPTERS}) == 3


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_http_generate_answers_at_once(http, direct, adapter):
    expected = direct(adapter, "Hello", max_new_tokens=20)
    body = {"prompt": "Hello", "adapter": adapter, "max_tokens": 20}
    answer = http.post(f"{BATCH}/generate", json=body).json()
    assert answer["text"] == expected.text
    assert answer["tokens"] == len(expected.ids)
    assert answer["finish_reason"] == expected.finish_reason


def test_rows_of_one_request_through_the_http_client(server, direct):
    import tritonclient.http as triton

    rows = [("red", "Hello"), ("", "a longer prompt"), ("blue", "x")]
    values = {
        "prompt": [prompt.encode() for _, prompt in rows],
        "adapter": [adapter.encode() for adapter, _ in rows],
        "max_tokens": [20, 20, 9],
    }
    client = triton.InferenceServerClient(server.http)
    try:
        answer = client.infer(BATCH_MODEL, inputs(triton, values, (3, 1)))
    finally:
        client.close()
    expected = [
        direct(adapter, prompt, max_new_tokens=most)
        for (adapter, prompt), most in zip(rows, values["max_tokens"], strict=True)
    ]
    texts = answer.as_numpy("text")
    assert texts.shape == (3, 1)
    assert [text.decode() for text in texts.flat] == [one.text for one in expected]
    assert answer.as_numpy("tokens").tolist() == [[len(one.ids)] for one in expected]


def test_streams_of_several_adapters_on_one_grpc_connection(server, direct):
    import tritonclient.grpc as triton

    with grpc_stream(server) as (client, answers):
        for adapter in ADAPTERS:
            values = {"prompt": b"Hello", "adapter": adapter.encode(), "max_tokens": 50}
            client.async_stream_infer(
                STREAM_MODEL, inputs(triton, values), request_id=f"id{adapter}"
            )
        order, pieces = [], {adapter: [] for adapter in ADAPTERS}
        open_streams = set(ADAPTERS)
        while open_streams:
            result, error = answers.get(timeout=20)
            assert error is None
            response = result.get_response()
            adapter = response.id.removeprefix("id")
            order.append(adapter)
            pieces[adapter].append(result.as_numpy("text")[0].decode())
            if response.parameters["triton_final_response"].bool_param:
                open_streams.remove(adapter)
    for adapter in ADAPTERS:
        expected = direct(adapter, "Hello", max_new_tokens=50)
        assert "".join(pieces[adapter]) == expected.text
        assert len(pieces[adapter]) == len(expected.ids)
    # They ran side by side: none ended before another began.
    firsts = [order.index(adapter) for adapter in ADAPTERS]
    lasts = [len(order) - 1 - order[::-1].index(adapter) for adapter in ADAPTERS]
    assert max(firsts) < min(lasts)


def executions(http):
    [stats] = http.get(f"{BATCH}/stats").json()["model_stats"]
    sizes = {entry["batch_size"]: entry["compute_infer"]["count"] for entry in stats["batch_stats"]}
    return stats["inference_count"], stats["execution_count"], sizes


def ask_together(http, bodies):
    """Send all of them at the same moment, each from a thread of its own."""
    together = threading.Barrier(len(bodies))

    def ask(body):
        together.wait()
        return http.post(f"{BATCH}/generate", json=body)

    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(ask, bodies))


def test_concurrent_requests_of_several_adapters_share_an_execution(http, direct):
    inferences, runs, sizes = executions(http)
    adapters = ADAPTERS * 2 + ["", "red"]
    bodies = [
        {"prompt": f"Hello {index}", "adapter": adapter, "max_tokens": 16}
        for index, adapter in enumerate(adapters)
    ]
    answers = ask_together(http, bodies)
    for body, answer in zip(bodies, answers, strict=True):
        expected = direct(body["adapter"], body["prompt"], max_new_tokens=16)
        assert answer.json()["text"] == expected.text
    inferences_after, runs_after, sizes_after = executions(http)
    assert inferences_after - inferences == 8
    assert runs_after - runs < 8
    grown = [size for size, count in sizes_after.items() if count > sizes.get(size, 0)]
    assert max(grown) > 1


def test_one_bad_request_leaves_its_batch_unharmed(http, direct):
    bodies = [{"prompt": "Hello", "adapter": "red", "max_tokens": 12} for _ in range(8)]
    bodies[2] |= {"adapter": "green"}
    bodies[5] |= {"temperature": -1}
    answers = ask_together(http, bodies)
    assert UNKNOWN in answers[2].json()["error"]
    expected = direct("red", "Hello", max_new_tokens=12).text
    rest = [answer.json()["text"] for index, answer in enumerate(answers) if index not in (2, 5)]
    assert rest == [expected] * 6
    assert answers[5].json()["error"].startswith("temperature=-1.0 must be 0 (greedy) or lie in")


def test_unknown_adapter_is_named_with_its_status(http, server):
    import tritonclient.grpc as triton

    tensors = [
        {"name": name, "datatype": "BYTES", "shape": [1, 1], "data": [value]}
        for name, value in (("prompt", "Hello"), ("adapter", "green"))
    ]
    answer = http.post(f"{BATCH}/infer", json={"inputs": tensors})
    assert answer.status_code == 404
    assert UNKNOWN in answer.json()["error"]
    streamed = http.post(f"{STREAM}/generate_stream", json={"prompt": "a", "adapter": "green"})
    assert streamed.status_code == 400
    assert UNKNOWN in streamed.text
    values = {"prompt": b"Hello", "adapter": b"green"}
    with (
        triton.InferenceServerClient(server.grpc) as client,
        pytest.raises(triton.InferenceServerException, match="no adapter 'green'") as caught,
    ):
        client.infer(BATCH_MODEL, inputs(triton, values, (1, 1)))
    assert caught.value.status() == "StatusCode.NOT_FOUND"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompt": "a", "adaptor": "red"}, "inputs missing: none; unknown: adaptor; there are"),
        ({"max_tokens": 3}, "inputs missing: prompt; unknown: none; there are"),
        ({"prompt": ""}, "the prompt is empty: give at least one token"),
        ({"prompt": "a" * 20_001}, "the prompt has 20001 tokens, above max_length=20000"),
        ({"prompt": "a", "max_tokens": 0}, "max_new_tokens=0 must be at least 1"),
        ({"prompt": "a", "seed": -1}, "seed=-1 must lie in"),
    ],
)
def test_bad_requests_are_told_why_and_the_next_is_served(http, direct, body, message):
    for path in (f"{STREAM}/generate_stream", f"{BATCH}/generate"):
        adapter = {"adapter": ""} if path.startswith(BATCH + "/") else {}
        answer = http.post(path, json=adapter | body)
        assert answer.status_code == 400
        assert message in answer.text
    answer = http.post(f"{STREAM}/generate", json={"prompt": "a", "max_tokens": 1})
    assert answer.json()["text"] == direct("", "a", max_new_tokens=1).text


def test_batching_model_asks_for_the_adapter(http):
    """A request without it would be accepted, but never share a batch with one that has it."""
    answer = http.post(f"{BATCH}/generate", json={"prompt": "a", "max_tokens": 3})
    assert answer.status_code == 400
    assert "inputs missing: adapter" in answer.text


def test_metrics_count_requests_and_tokens(http, server, direct):
    def counted():
        tokens = metric(server, "labkit_generated_tokens_total", model=BATCH_MODEL, adapter="blue")
        return metric(server, "nv_inference_request_success", model=BATCH_MODEL), tokens

    requests, tokens = counted()
    answer = http.post(
        f"{BATCH}/generate", json={"prompt": "Hello", "adapter": "blue", "max_tokens": 11}
    )
    generated = answer.json()["tokens"]
    assert generated == len(direct("blue", "Hello", max_new_tokens=11).ids)
    assert counted() == (requests + 1, tokens + generated)
    assert metric(server, "nv_inference_exec_count", model=BATCH_MODEL) > 0


MANY = 15_000


def leave_grpc_stream(server):
    import tritonclient.grpc as triton

    with grpc_stream(server) as (client, answers):
        values = {"prompt": b"Hello", "max_tokens": MANY}
        client.async_stream_infer(STREAM_MODEL, inputs(triton, values))
        _, error = answers.get(timeout=60)
        assert error is None


def leave_http_stream(server):
    body = {"prompt": "Hello", "max_tokens": MANY}
    url = f"http://{server.http}{STREAM}/generate_stream"
    with httpx.stream("POST", url, json=body) as response:
        assert next(events(response))["token"] >= 0


@pytest.mark.parametrize("leave", [leave_grpc_stream, leave_http_stream])
def test_stream_stops_generating_when_its_client_leaves(server, direct, leave):
    tokens = {"name": "labkit_generated_tokens_total", "model": STREAM_MODEL, "adapter": "base"}
    before = metric(server, **tokens)
    leave(server)
    while metric(server, "labkit_open_streams", model=STREAM_MODEL):
        pass
    assert 1 <= metric(server, **tokens) - before < MANY
    assert direct("", "Hello", max_new_tokens=100).finish_reason == "length"
