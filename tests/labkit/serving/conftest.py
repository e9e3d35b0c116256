"""Servers over the byte model and two adapters."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from labkit.inference.engine_config import EngineConfig
from labkit.model import zoo
from labkit.serving.backends.build import engine_backend
from tests.labkit.serving.running import Served, save_adapter, serving


@pytest.fixture(scope="session")
def adapters(byte_loaded: zoo.Loaded, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    names = ("red", "blue")
    return {name: save_adapter(byte_loaded, folder / name, i) for i, name in enumerate(names)}


@pytest.fixture(scope="session")
def shared(byte_loaded: zoo.Loaded, adapters: dict[str, Path]) -> Iterator[Served]:
    """One server for all tests that leave it as it was."""
    with serving(engine_backend(byte_loaded, adapters)) as served:
        yield served


@pytest.fixture(scope="session")
def url(shared: Served) -> str:
    return shared.url


@pytest.fixture(scope="session")
def client(shared: Served) -> Iterator[openai.OpenAI]:
    with shared.client() as client:
        yield client


@pytest.fixture
def small(byte_loaded: zoo.Loaded) -> EngineConfig:
    """An engine in which requests meet: few pages, small steps."""
    return EngineConfig(
        max_batch=4, token_budget=16, num_pages=60, page_size=8, max_adapters=3, max_rank=8
    )
