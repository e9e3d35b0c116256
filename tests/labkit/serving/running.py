"""A server that runs in a thread, adapters on disk, and waiting for other threads."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
import torch

from labkit.model import minillm, zoo
from labkit.serving import server
from labkit.serving.backends.base import Backend
from labkit.serving.config import ServingConfig
from labkit.serving.gateway import Gateway
from labkit.tuning import adapter_files, lora


def save_adapter(loaded: zoo.Loaded, folder: Path, seed: int, rank: int = 3) -> Path:
    """A random LoRA on the byte model, far from nothing."""
    config = lora.LoraConfig(rank=rank, alpha=6.0, target_modules=("q_proj", "down_proj"))
    model = minillm.MiniLLM(loaded.config)
    model.load_state_dict(loaded.model.state_dict())
    generator = torch.Generator().manual_seed(seed)
    lora.apply(model, config, generator=generator)
    for layer in lora.layers(model).values():
        layer.lora_B.weight.data.normal_(generator=generator)
    adapter_files.save(model, folder, config, "byte")
    return folder


@dataclass(frozen=True)
class Served:
    """A server that runs: where, and what is inside."""

    url: str
    gateway: Gateway
    running: server.Server

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)


@contextmanager
def serving(backend: Backend, config: ServingConfig | None = None) -> Iterator[Served]:
    """A server in a thread of its own, ended with the block."""
    running = server.server_of(backend, config)
    with server.in_thread(running) as url:
        yield Served(url, running.config.app.state.gateway, running)


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Come back as soon as a condition of another thread holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.005)
