"""Models with a long context behind a real Triton server, and what labkit says without it."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from labkit.inference import generate as g
from labkit.inference.sampling import SamplingConfig
from labkit.model import huggingface, minillm, zoo
from labkit.serving.tritonserver import process, repository
from labkit.tuning import adapter_files

Direct = Callable[..., g.Generation]


@pytest.fixture(scope="session")
def long_loaded(byte_loaded: zoo.Loaded) -> zoo.Loaded:
    """The byte model with room for a stream that is still running when its client leaves."""
    config = dataclasses.replace(byte_loaded.config, max_length=20_000)
    model = minillm.MiniLLM(config)
    model.load_state_dict(byte_loaded.model.state_dict())
    return dataclasses.replace(byte_loaded, model=model.eval(), config=config)


@pytest.fixture(scope="session")
def direct(long_loaded: zoo.Loaded, adapters: dict[str, Path]) -> Direct:
    """What `generate` says on a model of its own; adapter "" is the base."""
    models = {"": long_loaded.model}
    for name, folder in adapters.items():
        model = minillm.MiniLLM(long_loaded.config)
        model.load_state_dict(long_loaded.model.state_dict())
        models[name] = adapter_files.load(model, folder).eval()

    def run(adapter: str, prompt: str, **options: float) -> g.Generation:
        config = SamplingConfig(**options)
        [generation] = g.generate(models[adapter], long_loaded.tokenizer, prompt, config)
        return generation

    return run


@pytest.fixture(scope="session")
def server(
    long_loaded: zoo.Loaded,
    adapters: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[process.Server]:
    """Both models; a batch waits for the eighth request, or for a third of a second."""
    folder = tmp_path_factory.mktemp("triton")
    huggingface.save_folder(long_loaded.model, long_loaded.tokenizer, folder / "long")
    config = repository.RepositoryConfig(
        model=str(folder / "long"),
        adapters=adapters,
        dtype="float32",
        max_batch_size=16,
        preferred_batch_sizes=(8,),
        max_queue_delay_us=333_333,
    )
    repository.write(folder / "repository", config)
    with process.running(folder / "repository", folder / "log") as server:
        yield server


@pytest.fixture
def http(server: process.Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{server.http}", timeout=60) as client:
        yield client
