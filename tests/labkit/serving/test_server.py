"""The stock openai client talks to a real server; every text equals direct generation."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from labkit.inference import generate as g
from labkit.inference.sampling import SamplingConfig
from labkit.model import minillm
from labkit.serving import server
from labkit.serving.backends.build import engine_backend
from labkit.tuning import adapter_files

MESSAGES = [{"role": "user", "content": "What?"}]


@pytest.fixture(scope="module")
def direct(byte_loaded, adapters):
    """What `generate` says on a model of its own, by name."""
    models = {"byte": byte_loaded.model}
    for name, folder in adapters.items():
        model = minillm.MiniLLM(byte_loaded.config)
        model.load_state_dict(byte_loaded.model.state_dict())
        models[name] = adapter_files.load(model, folder).eval()

    def run(name: str, prompt: str, **options) -> g.Generation:
        config = SamplingConfig(**options)
        [generation] = g.generate(models[name], byte_loaded.tokenizer, prompt, config)
        return generation

    return run


def test_models_lists_the_base_and_the_adapters(client):
    assert [model.id for model in client.models.list()] == ["byte", "red", "blue"]
    assert client.models.retrieve("red").id == "red"


@pytest.mark.parametrize("name", ["byte", "red", "blue"])
def test_completion_equals_direct_generation(client, direct, name):
    answer = client.completions.create(model=name, prompt="Hello", max_tokens=20, temperature=0)
    expected = direct(name, "Hello", max_new_tokens=20)
    assert answer.choices[0].text == expected.text
    assert answer.choices[0].finish_reason == expected.finish_reason
    assert answer.usage.prompt_tokens == 5
    assert answer.usage.completion_tokens == len(expected.ids)
    assert answer.usage.total_tokens == 5 + len(expected.ids)


def test_adapters_and_base_differ(direct):
    texts = {name: direct(name, "Hello", max_new_tokens=20).text for name in ("byte", "red")}
    assert texts["byte"] != texts["red"]


@pytest.mark.parametrize("name", ["byte", "blue"])
def test_chat_whole_and_streamed_equals_direct_generation(client, direct, byte_loaded, name):
    prompt = byte_loaded.tokenizer.apply_chat(MESSAGES)
    options = {"seed": 3, "temperature": 1.1, "top_p": 0.8, "stop": ["z", "\x05"]}
    expected = direct(name, prompt, max_new_tokens=40, **{**options, "stop": ("z", "\x05")})
    request = {"model": name, "messages": MESSAGES, "max_tokens": 40, **options}
    whole = client.chat.completions.create(**request)
    assert whole.choices[0].message.content == expected.text
    assert whole.choices[0].finish_reason == expected.finish_reason
    usage = {"include_usage": True}
    chunks = list(client.chat.completions.create(**request, stream=True, stream_options=usage))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == expected.text
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert reasons == [None] * (len(reasons) - 1) + [expected.finish_reason]
    assert chunks[-1].usage.completion_tokens == len(expected.ids)


def test_stream_is_server_sent_events_that_end_in_done(url):
    body = {"model": "byte", "prompt": "a", "max_tokens": 3, "temperature": 0, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"


def test_several_prompts_and_token_ids(client, direct, byte_loaded):
    answer = client.completions.create(
        model="red", prompt=["Hello", "x"], max_tokens=9, temperature=0
    )
    texts = [direct("red", prompt, max_new_tokens=9).text for prompt in ("Hello", "x")]
    assert [choice.text for choice in answer.choices] == texts
    ids = byte_loaded.tokenizer.encode("Hello")
    answer = client.completions.create(model="red", prompt=ids, max_tokens=9, temperature=0)
    assert answer.choices[0].text == texts[0]


def test_without_a_seed_answers_vary(client):
    request = {"model": "byte", "prompt": "a", "max_tokens": 30, "temperature": 2.0}
    assert len({client.completions.create(**request).choices[0].text for _ in range(3)}) > 1


def test_concurrent_requests_do_not_mix(client, direct):
    names = ["byte", "red", "blue"] * 4
    expected = {name: direct(name, "Hello", max_new_tokens=25).text for name in set(names)}

    def ask(name: str) -> str:
        request = {"model": name, "prompt": "Hello", "max_tokens": 25, "temperature": 0}
        if name == "blue":
            pieces = client.completions.create(**request, stream=True)
            return "".join(piece.choices[0].text for piece in pieces)
        return client.completions.create(**request).choices[0].text

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, names)) == [expected[name] for name in names]


def test_a_client_that_leaves_frees_the_worker(client):
    request = {"model": "byte", "prompt": "a", "max_tokens": 180, "temperature": 0}
    stream = client.completions.create(**request, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    assert client.completions.create(**{**request, "max_tokens": 2}).choices


def test_serving_leaves_the_model_as_it_is(byte_loaded, adapters):
    before = {name: p.clone() for name, p in byte_loaded.model.state_dict().items()}
    engine_backend(byte_loaded, adapters)
    after = byte_loaded.model.state_dict()
    assert before.keys() == after.keys()
    assert all(bool((before[name] == after[name]).all()) for name in before)
    assert not any(module._forward_hooks for module in byte_loaded.model.modules())


def test_unknown_model_is_404_in_openais_shape(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="green", messages=MESSAGES)
    assert caught.value.code == "model_not_found"
    assert caught.value.type == "invalid_request_error"
    assert "'green' does not exist: this server has byte, red, blue" in caught.value.message
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("green")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": -5}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": "x" * 300}]}, "above max_length=190"),
        ({"n": 0}, "n"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"top_logprobs": 2}, "logprobs=true"),
        ({"extra_body": {"tpo_p": 1}}, "tpo_p"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_invalid_parameters_are_400_in_openais_shape(client, values, message, stream):
    request = {"model": "byte", "messages": MESSAGES, "stream": stream, **values}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**request)
    assert message in caught.value.message
    assert caught.value.type == "invalid_request_error"


def test_bad_prompts_and_bodies_are_400(client, url):
    for prompt in ("", [], [100_000], [[-1]]):
        with pytest.raises(openai.BadRequestError):
            client.completions.create(model="byte", prompt=prompt)
    response = httpx.post(f"{url}/v1/completions", content=b"{not json")
    assert response.status_code == 400
    assert "message" in response.json()["error"]
    assert httpx.get(f"{url}/v1/nothing").json()["error"]["code"] == "404"
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}


def test_names_must_differ_and_ports_be_free(byte_loaded, adapters):
    with pytest.raises(ValueError, match="'byte' is taken"):
        engine_backend(byte_loaded, {"byte": adapters["red"]})
    with server.listen("127.0.0.1", 0) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            server.listen("127.0.0.1", port)


def test_a_server_in_a_thread_ends_with_its_block(byte_loaded):
    running = server.build_server(byte_loaded)
    with server.in_thread(running) as url:
        assert httpx.get(f"{url}/health").status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_a_server_that_cannot_start_says_so(byte_loaded, monkeypatch):
    running = server.build_server(byte_loaded)
    monkeypatch.setattr(running, "run", lambda sockets: None)
    with pytest.raises(RuntimeError, match="before it was ready"), server.in_thread(running):
        pass


def test_a_taken_address_is_named(byte_loaded):
    with server.listen("127.0.0.1", 0) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        with (
            pytest.raises(OSError, match=f"127.0.0.1:{port}"),
            server.in_thread(server.build_server(byte_loaded), port=port),
        ):
            pass
