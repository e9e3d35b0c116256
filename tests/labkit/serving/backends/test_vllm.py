"""A managed vLLM: requests are passed on, adapters get names of their own and outlive restarts."""

import json
import shutil
import sys
from pathlib import Path

import httpx
import openai
import pytest

from labkit.inference.adapters.errors import UnsupportedAdapterError
from labkit.model import huggingface
from labkit.serving.backends.build import _free_port, vllm_backend
from labkit.serving.backends.vllm import VllmBackend
from labkit.serving.backends.vllm_process import Upstream, rank_for, vllm_upstream
from labkit.serving.config import ServingConfig
from tests.labkit.serving.running import save_adapter, serving, wait_until

FAKE = Path(__file__).with_name("fake_vllm.py")
REAL = Path(__file__).parents[4] / ".venv-vllm" / "bin" / "python"
CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
ASK = {"prompt": "a", "max_tokens": 2}


@pytest.fixture(scope="module")
def root(byte_loaded, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    for seed, name in enumerate(("one", "two", "three")):
        save_adapter(byte_loaded, folder / name, seed)
    return folder


@pytest.fixture
def served(root):
    port = _free_port()
    command = (sys.executable, str(FAKE), "--port", str(port))
    upstream = Upstream(command=command, url=f"http://127.0.0.1:{port}", start_s=60.0)
    backend = VllmBackend(upstream, "byte", max_batch=2, max_adapters=2, max_rank=8)
    backend.adapters.declare("red", root / "one")
    with serving(backend, ServingConfig(adapters_root=root)) as served:
        yield served


def ask(client: openai.OpenAI, model: str, **fields) -> str:
    return client.completions.create(model=model, **ASK, **fields).choices[0].text


def test_requests_are_passed_on_under_other_names(served):
    with served.client() as client:
        assert ask(client, "byte") == "base "
        assert ask(client, "red") == "red@v1 one"
        answer = client.completions.create(model="red", **ASK)
        assert answer.model == "red"
        chunks = list(client.completions.create(model="red", **ASK, stream=True))
        assert [chunk.choices[0].text for chunk in chunks] == ["red@v1", "one"]
        assert {chunk.model for chunk in chunks} == {"red"}
        options = {"include_usage": True}
        chunks = list(
            client.completions.create(model="red", **ASK, stream=True, stream_options=options)
        )
        assert chunks[-1].usage.prompt_tokens == 3
        assert [m.id for m in client.models.list()] == ["byte", "red"]
        with pytest.raises(openai.NotFoundError, match="this server has byte, red"):
            ask(client, "green")
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match="an unlucky seed"):
                client.completions.create(model="byte", **ASK, seed=12, stream=stream)
        with pytest.raises(openai.BadRequestError, match="best_of"):
            client.completions.create(model="byte", **ASK, best_of=2)
        with pytest.raises(openai.APIStatusError) as caught:
            client.embeddings.create(model="byte", input="a")
        assert caught.value.status_code == 501


def test_a_reload_has_a_name_of_its_own_and_the_old_one_goes(served):
    url = f"{served.url}/v1/load_lora_adapter"
    with served.client() as client:
        body = {"lora_name": "red", "lora_path": "two"}
        assert httpx.post(url, json=body).status_code == 409
        assert httpx.post(url, json={**body, "load_inplace": True}).json()["root"] == "red@v2"
        assert ask(client, "red") == "red@v2 two"
        upstream = httpx.get(served.gateway.backend._upstream.url + "/v1/models").json()
        assert [row["id"] for row in upstream["data"]] == ["base", "red@v2"]
        gone = httpx.post(f"{served.url}/v1/unload_lora_adapter", json={"lora_name": "red"})
        assert gone.status_code == 200
        upstream = httpx.get(served.gateway.backend._upstream.url + "/v1/models").json()
        assert [row["id"] for row in upstream["data"]] == ["base"]


def test_after_its_death_it_has_its_adapters_before_it_is_ready(served, root, byte_loaded):
    backend = served.gateway.backend
    changed = root / "changed"
    save_adapter(byte_loaded, changed, 5)
    with served.client() as client:
        load = {"lora_name": "changed"}
        assert httpx.post(f"{served.url}/v1/load_lora_adapter", json=load).status_code == 200
        save_adapter(byte_loaded, changed, 6)  # other weights in the same folder
        with pytest.raises(openai.InternalServerError) as caught:
            client.completions.create(model="red", **ASK, seed=13)
        assert caught.value.status_code == 503
        wait_until(lambda: backend.restarts == 1)
        wait_until(lambda: not backend.unready())
        assert ask(client, "red") == "red@v1 one"
        with pytest.raises(openai.NotFoundError):
            ask(client, "changed")
    shutil.rmtree(changed)


def test_what_vllm_cannot_serve_is_refused_before(served, root, tmp_path):
    shutil.copytree(root / "one", tmp_path / "dora")
    config = json.loads((tmp_path / "dora" / "adapter_config.json").read_text())
    (tmp_path / "dora" / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(UnsupportedAdapterError, match="use_dora"):
        served.gateway.backend.adapters.declare("dora", tmp_path / "dora")


def test_its_command():
    upstream = vllm_upstream(Path("m"), port=9, max_adapters=3, max_rank=9, max_batch=5)
    words = " ".join(upstream.command[1:])
    assert words.startswith("-m vllm.entrypoints.openai.api_server --model m ")
    assert "--host 127.0.0.1 --port 9 --max-num-seqs 5" in words
    assert "--max-loras 4 --max-cpu-loras 4 --max-lora-rank 16" in words
    assert upstream.environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert [rank_for(rank) for rank in (1, 8, 33, 512)] == [1, 8, 64, 512]
    with pytest.raises(ValueError, match="rank 513"):
        rank_for(513)


@pytest.mark.vllm
def test_the_real_one(smollm2, tmp_path, monkeypatch):
    """SmolLM2 in vLLM, greedy, as it continues here; an adapter is loaded while it serves."""
    for name, value in {**CPU, "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)
    huggingface.save_folder(smollm2.model, smollm2.tokenizer, tmp_path / "model")
    save_adapter(smollm2, tmp_path / "adapters" / "one", 1)
    options = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "128")
    backend = vllm_backend(
        str(tmp_path / "model"), base_name="smol", python=REAL, max_batch=2, max_adapters=1,
        max_rank=8, options=options,
    )  # fmt: skip
    root = tmp_path / "adapters"
    with serving(backend, ServingConfig(adapters_root=root)) as served, served.client() as client:
        request = {"prompt": "The capital of France is", "max_tokens": 5, "temperature": 0}
        base = client.completions.create(model="smol", **request).choices[0].text
        assert "Paris" in base
        load = httpx.post(
            f"{served.url}/v1/load_lora_adapter", json={"lora_name": "one"}, timeout=200
        )
        assert load.status_code == 200, load.text
        assert client.completions.create(model="one", **request).choices[0].text != base
        assert client.completions.create(model="smol", **request).choices[0].text == base
