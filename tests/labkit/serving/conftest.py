"""A real server on a free port with the byte model and two adapters."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import torch

from labkit.model import minillm, zoo
from labkit.serving import server
from labkit.tuning import adapter_files, lora


def _adapter(loaded: zoo.Loaded, folder: Path, seed: int) -> Path:
    config = lora.LoraConfig(rank=3, alpha=6.0, target_modules=("q_proj", "down_proj"))
    model = minillm.MiniLLM(loaded.config)
    model.load_state_dict(loaded.model.state_dict())
    generator = torch.Generator().manual_seed(seed)
    lora.apply(model, config, generator=generator)
    for layer in lora.layers(model).values():
        layer.lora_B.weight.data.normal_(generator=generator)
    adapter_files.save(model, folder, config, "byte")
    return folder


@pytest.fixture(scope="session")
def adapters(byte_loaded: zoo.Loaded, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {name: _adapter(byte_loaded, folder / name, i) for i, name in enumerate(("red", "blue"))}


@pytest.fixture(scope="session")
def url(byte_loaded: zoo.Loaded, adapters: dict[str, Path]) -> Iterator[str]:
    running = server.build_server(byte_loaded, adapters)
    with server.listen("127.0.0.1", 0) as bound:
        thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
        thread.start()
        while not running.started:
            time.sleep(0.01)
            assert thread.is_alive()
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        running.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client
