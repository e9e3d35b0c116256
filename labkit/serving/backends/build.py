"""The three backends from a model's name, with adapters mounted."""

import socket
from collections.abc import Mapping
from pathlib import Path

from labkit.inference.engine_config import EngineConfig
from labkit.model.zoo import Loaded
from labkit.serving import structure
from labkit.serving.backends import transformers_engine
from labkit.serving.backends.local import LocalBackend
from labkit.serving.backends.local_engine import LocalEngine, OwnEngine
from labkit.serving.backends.model_folder import model_folder
from labkit.serving.backends.vllm import VllmBackend
from labkit.serving.backends.vllm_process import vllm_upstream

MAX_ADAPTERS = 8
Adapters = Mapping[str, Path | str]


def engine_backend(
    loaded: Loaded,
    adapters: Adapters | None = None,
    *,
    base_name: str | None = None,
    engine: EngineConfig | None = None,
    structured: structure.Maker = "hand",
) -> LocalBackend:
    """Our engine as a backend.

    Args:
        loaded: The base model.
        adapters: Name in requests to PEFT folder.
        base_name: The base's name in requests; default: its zoo name, of a folder the last part.
        engine: Sizes and weights; default: with room for some adapters.
        structured: Who compiles grammars.

    Raises:
        ValueError: The engine cannot run the model, or an adapter has the base's name or does not
            fit.
    """
    adapters = adapters or {}
    config = engine or EngineConfig(max_adapters=max(MAX_ADAPTERS, len(adapters)))
    name = base_name or default_name(loaded.name)
    _refuse_taken(name, adapters)
    return _with_adapters(OwnEngine(loaded, config), name, adapters, structured)


def transformers_backend(
    model: str,
    adapters: Adapters | None = None,
    *,
    base_name: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    max_batch: int = 32,
    max_adapters: int = MAX_ADAPTERS,
    max_rank: int = 64,
    structured: structure.Maker = "hand",
) -> LocalBackend:
    """transformers' own model of a folder or name as a backend; arguments as above.

    Raises:
        MissingDependencyError: transformers (or, for adapters, peft) is not installed.
        ValueError, OSError: As `zoo.load` and transformers.
    """
    adapters = adapters or {}
    name = base_name or default_name(model)
    _refuse_taken(name, adapters)
    engine = transformers_engine.load(
        model_folder(model),
        dtype=dtype,
        device=device,
        max_batch=max_batch,
        max_adapters=max_adapters,
        max_rank=max_rank,
    )
    return _with_adapters(engine, name, adapters, structured)


def vllm_backend(
    model: str,
    adapters: Adapters | None = None,
    *,
    base_name: str | None = None,
    python: Path | None = None,
    max_batch: int = 32,
    max_adapters: int = MAX_ADAPTERS,
    max_rank: int = 64,
    options: tuple[str, ...] = (),
) -> VllmBackend:
    """A vLLM server of a folder or name, started with the backend.

    Args:
        model: As `zoo.load` takes it.
        adapters: Name in requests to PEFT folder.
        base_name: The base's name in requests.
        python: The interpreter that has vLLM; default: this one.
        max_batch: Texts at once.
        max_adapters: Mounted at a time.
        max_rank: Highest LoRA rank.
        options: Further ones of vLLM's server.

    Raises:
        MissingDependencyError: httpx is not installed.
        ValueError, OSError: As `zoo.load`, or an adapter is refused.
    """
    adapters = adapters or {}
    name = base_name or default_name(model)
    _refuse_taken(name, adapters)
    upstream = vllm_upstream(
        model_folder(model),
        port=_free_port(),
        max_adapters=max_adapters,
        max_rank=max_rank,
        max_batch=max_batch,
        python=python,
        options=options,
    )
    backend = VllmBackend(
        upstream, name, max_batch=max_batch, max_adapters=max_adapters, max_rank=max_rank
    )
    for adapter, folder in adapters.items():
        backend.adapters.declare(adapter, Path(folder))
    return backend


def default_name(model: str) -> str:
    """A model's name in requests: of a folder the last part."""
    folder = Path(model)
    return folder.resolve().name if folder.is_dir() else model


def _with_adapters(
    engine: LocalEngine, name: str, adapters: Adapters, structured: structure.Maker
) -> LocalBackend:
    for adapter, folder in adapters.items():
        engine.mount(adapter, Path(folder))
    return LocalBackend(engine, name, structured=structured)


def _refuse_taken(name: str, adapters: Adapters) -> None:
    if name in adapters:
        raise ValueError(f"adapter name {name!r} is taken: give each model its own name")


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port
