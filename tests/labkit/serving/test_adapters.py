"""Adapters come and go while others stream; bad ones are refused by name."""

import json
import shutil
from pathlib import Path

import httpx
import openai
import pytest
import torch
from safetensors.torch import load_file, save_file

from labkit.inference import generate as g
from labkit.inference.sampling import SamplingConfig
from labkit.model import minillm
from labkit.serving.backends.build import engine_backend
from labkit.serving.config import ServingConfig
from labkit.tuning import adapter_files
from tests.labkit.serving.running import save_adapter, serving

PROMPT = "a prompt that fills some pages of the cache"
WEIGHTS = "adapter_model.safetensors"


def direct(loaded, folder: Path | None) -> str:
    model = minillm.MiniLLM(loaded.config)
    model.load_state_dict(loaded.model.state_dict())
    if folder is not None:
        adapter_files.load(model, folder)
    config = SamplingConfig(max_new_tokens=12)
    [text] = g.generate(model.eval(), loaded.tokenizer, PROMPT, config)
    return text.text


def ask(client: openai.OpenAI, model: str) -> str:
    answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=12, temperature=0)
    return answer.choices[0].text


@pytest.fixture(scope="module")
def root(byte_loaded, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    for seed, name in enumerate(("one", "two", "three", "four")):
        save_adapter(byte_loaded, folder / name, seed)
    save_adapter(byte_loaded, folder / "high", 7, rank=9)
    return folder


@pytest.fixture
def served(byte_loaded, small, root):
    backend = engine_backend(byte_loaded, engine=small)
    with serving(backend, ServingConfig(adapters_root=root)) as served:
        yield served
        served.gateway.backend.engine.check_integrity()


@pytest.fixture
def load(served):
    def load(**fields):
        return httpx.post(f"{served.url}/v1/load_lora_adapter", json=fields, timeout=60)

    return load


def test_by_name_by_path_and_off_again(served, load, root, byte_loaded):
    with served.client() as client:
        assert load(lora_name="one").json()["root"] == "one@v1"
        assert load(lora_name="mine", lora_path=str(root / "two")).status_code == 200
        assert load(lora_name="other", lora_path="three").status_code == 200
        assert [m.id for m in client.models.list()] == ["byte", "one", "mine", "other"]
        assert client.models.retrieve("mine").parent == "byte"
        for name, folder in (("one", "one"), ("mine", "two"), ("other@v1", "three")):
            assert ask(client, name) == direct(byte_loaded, root / folder)
        assert ask(client, "byte") == direct(byte_loaded, None)
        full = load(lora_name="four")
        assert (full.status_code, full.json()["error"]["code"]) == (409, "adapter_capacity")
        gone = httpx.post(f"{served.url}/v1/unload_lora_adapter", json={"lora_name": "mine"})
        assert gone.status_code == 200
        with pytest.raises(openai.NotFoundError):
            ask(client, "mine")
        assert load(lora_name="four").status_code == 200


def test_a_reload_never_serves_the_old_weights(served, load, root, byte_loaded):
    with served.client() as client:
        load(lora_name="x", lora_path="one")
        assert ask(client, "x") == direct(byte_loaded, root / "one")
        taken = load(lora_name="x", lora_path="two")
        assert (taken.status_code, taken.json()["error"]["code"]) == (409, "adapter_exists")
        assert taken.headers["x-should-retry"] == "false"
        stream = client.completions.create(
            model="x", prompt=PROMPT, max_tokens=100, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        again = load(lora_name="x", lora_path="two", load_inplace=True)
        assert again.json()["root"] == "x@v2"
        assert ask(client, "x") == direct(byte_loaded, root / "two")  # the prompt is cached for v1
        with pytest.raises(openai.NotFoundError):
            ask(client, "x@v1")
        assert len(list(stream)) > 1  # the old version's request went on to its end
        assert load(lora_name="x@v2", lora_path="one", load_inplace=True).status_code == 400


def spoil(folder: Path, kind: str) -> None:
    """Make an adapter bad in one way."""
    weights = folder / WEIGHTS
    tensors = load_file(weights)
    first = next(iter(tensors))
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-9])
    elif kind == "no header":
        weights.write_bytes(b"\xff" * 64)
    elif kind == "nan":
        save_file({**tensors, first: tensors[first] * torch.nan}, weights)
    elif kind == "shape":
        save_file({**tensors, first: tensors[first].repeat(2, 2)}, weights)
    elif kind == "dora":
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    elif kind == "pickle":
        torch.save(tensors, folder / "adapter_model.bin")
        weights.unlink()


@pytest.mark.parametrize(
    "kind", ["truncated", "no header", "nan", "shape", "dora", "pickle", "config"]
)
def test_bad_adapters_are_refused_while_others_stream(served, load, root, kind, byte_loaded):
    bad = root / f"bad-{kind.replace(' ', '-')}"
    shutil.copytree(root / "one", bad)
    spoil(bad, kind)
    if kind == "config":
        (bad / "adapter_config.json").write_text("{")
    with served.client() as client:
        load(lora_name="one")
        request = {"model": "one", "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
        stream = client.completions.create(**request, stream=True)
        answer = load(lora_name="bad", lora_path=bad.name)
        assert answer.status_code == 422
        assert answer.json()["error"]["code"].endswith("_adapter")
        text = "".join(chunk.choices[0].text for chunk in stream)
        assert text == direct(byte_loaded, root / "one")
        with pytest.raises(openai.NotFoundError):
            ask(client, "bad")


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"lora_name": "high"}, 422, "mismatched_adapter"),
        ({"lora_name": "nowhere"}, 404, "adapter_not_found"),
        ({"lora_name": "x", "lora_path": "/etc"}, 403, "path_not_allowed"),
        ({"lora_name": "x", "lora_path": "../.."}, 403, "path_not_allowed"),
        ({"lora_name": "x", "lora_path": "out"}, 403, "path_not_allowed"),
        ({"lora_name": "x", "lora_path": "links"}, 403, "path_not_allowed"),
        ({"lora_name": "x", "lora_path": "\0"}, 400, "400"),
        ({"lora_name": "../one"}, 400, "invalid_adapter_name"),
        ({"lora_name": "byte", "lora_path": "one"}, 409, "adapter_exists"),
        ({"lora_name": "byte@v1", "lora_path": "one"}, 409, "adapter_exists"),
        ({}, 400, "400"),
    ],
)
def test_refusals(load, root, tmp_path, fields, status, code):
    for link, target in ((root / "out", tmp_path), (root / "links" / WEIGHTS, "/etc/hostname")):
        link.parent.mkdir(exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(target)
    answer = load(**fields)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_without_a_root_nothing_is_loaded(url):
    answer = httpx.post(f"{url}/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": "/tmp"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "adapters_off")
    for name, status in (("green", 404), ("byte", 400)):
        answer = httpx.post(f"{url}/v1/unload_lora_adapter", json={"lora_name": name})
        assert answer.status_code == status


def test_the_plain_route(url, byte_loaded, adapters):
    body = {"prompt": PROMPT, "max_new_tokens": 12}
    red = httpx.post(f"{url}/generate?adapter=red", json=body).json()
    assert red["texts"] == [
        {"text": direct(byte_loaded, adapters["red"]), "finish_reason": "length"}
    ]
    assert red["adapter"] == "red"
    base = httpx.post(f"{url}/generate", json=body).json()
    assert base["texts"][0]["text"] == direct(byte_loaded, None)
    several = {**body, "num_return_sequences": 3, "temperature": 1.5, "seed": 1}
    texts = httpx.post(f"{url}/generate?adapter=blue", json=several).json()["texts"]
    assert len({text["text"] for text in texts}) == 3
    unknown = httpx.post(f"{url}/generate?adapter=green", json=body)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
