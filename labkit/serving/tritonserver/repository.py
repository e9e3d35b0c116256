"""A Triton model repository: for each model a folder with `config.pbtxt` and `1/model.py`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

STREAM_MODEL = "generate"
BATCH_MODEL = "generate_batch"

_MODEL_FILE = """\
\"\"\"Loaded by Triton's Python backend, in a process of its own.\"\"\"

from labkit.serving.tritonserver.{module} import TritonPythonModel

__all__ = ["TritonPythonModel"]
"""

_TEXT, _NUMBER = "TYPE_STRING", "TYPE_INT32"
_OPTIONS = {"max_tokens": _NUMBER, "temperature": "TYPE_FP32", "seed": "TYPE_INT64"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RepositoryConfig:
    """What the repository's models serve, and how requests are gathered into batches.

    Attributes:
        model: A zoo name, or a folder in Hugging Face's layout.
        adapters: Name in requests to PEFT folder.
        dtype: Of the weights; see `zoo.load`.
        threads: Of torch, in each model's process.
        max_batch_size: Most rows in one batch.
        dynamic_batching: Gather requests that wait; without it each runs alone.
        preferred_batch_sizes: A batch of one of these sizes starts without delay.
        max_queue_delay_us: Longest that a request waits for others, in microseconds.
    """

    model: str
    adapters: Mapping[str, Path | str] = field(default_factory=dict)
    dtype: str = "auto"
    threads: int = 1
    max_batch_size: int = 8
    dynamic_batching: bool = True
    preferred_batch_sizes: tuple[int, ...] = (4, 8)
    max_queue_delay_us: int = 2000

    def __post_init__(self) -> None:
        if taken := {"", "base"} & set(self.adapters):
            raise ValueError(f"adapter name {taken.pop()!r} stands for the base: take another")
        if self.max_batch_size < 1 or self.threads < 1:
            raise ValueError(
                f"max_batch_size={self.max_batch_size} and threads={self.threads} must be positive"
            )
        if any(not 1 <= size <= self.max_batch_size for size in self.preferred_batch_sizes):
            raise ValueError(
                f"preferred_batch_sizes={self.preferred_batch_sizes} must lie between 1 and "
                f"max_batch_size={self.max_batch_size}"
            )
        if self.max_queue_delay_us < 0:
            raise ValueError(f"max_queue_delay_us={self.max_queue_delay_us} must not be negative")


def write(folder: Path, config: RepositoryConfig) -> Path:
    """Write both models; Triton is started on the folder.

    Returns:
        The folder.
    """
    _write_model(folder / STREAM_MODEL, "stream_model", stream_pbtxt(config))
    _write_model(folder / BATCH_MODEL, "batch_model", batch_pbtxt(config))
    return folder


def stream_pbtxt(config: RepositoryConfig) -> str:
    """The streaming model: decoupled, so that one request may have any number of responses."""
    lines = [
        f'name: "{STREAM_MODEL}"',
        'backend: "python"',
        "max_batch_size: 0",
        "model_transaction_policy { decoupled: true }",
        *_tensors("input", {"prompt": _TEXT}),
        *_tensors("input", {"adapter": _TEXT, **_OPTIONS}, "optional: true"),
        *_tensors("output", {"text": _TEXT, "token": _NUMBER, "finish_reason": _TEXT}),
        *_parameters(config),
    ]
    return "\n".join(lines) + "\n"


def batch_pbtxt(config: RepositoryConfig) -> str:
    """The batching model: one response a request, and several requests an execution.

    The batcher joins only requests that give the same optional inputs. For a batch over several
    adapters the adapter is therefore a required input, "" for the base.
    """
    lines = [
        f'name: "{BATCH_MODEL}"',
        'backend: "python"',
        f"max_batch_size: {config.max_batch_size}",
        *_batching(config),
        *_tensors("input", {"prompt": _TEXT, "adapter": _TEXT}),
        *_tensors("input", _OPTIONS, "optional: true"),
        *_tensors("output", {"text": _TEXT, "tokens": _NUMBER, "finish_reason": _TEXT}),
        *_parameters(config),
    ]
    return "\n".join(lines) + "\n"


def _batching(config: RepositoryConfig) -> list[str]:
    if not config.dynamic_batching:
        return []
    return [
        "dynamic_batching {",
        f"  preferred_batch_size: {list(config.preferred_batch_sizes)}",
        f"  max_queue_delay_microseconds: {config.max_queue_delay_us}",
        "}",
    ]


def _tensors(kind: str, types: Mapping[str, str], more: str = "") -> list[str]:
    """One value each; a batching model has the batch's dimension before it."""
    return [
        f'{kind} {{ name: "{name}" data_type: {of} dims: [ 1 ] {more} }}'
        for name, of in types.items()
    ]


def _write_model(folder: Path, module: str, pbtxt: str) -> None:
    (folder / "1").mkdir(parents=True, exist_ok=True)
    (folder / "1" / "model.py").write_text(_MODEL_FILE.format(module=module))
    (folder / "config.pbtxt").write_text(pbtxt, encoding="utf-8")


def _parameters(config: RepositoryConfig) -> list[str]:
    """On CPU, one process a model; what that process loads is told in parameters."""
    adapters = {name: str(Path(path).resolve()) for name, path in config.adapters.items()}
    is_folder = Path(config.model).is_dir()
    values = {
        "model": str(Path(config.model).resolve()) if is_folder else config.model,
        "adapters": json.dumps(adapters),
        "dtype": config.dtype,
        "threads": str(config.threads),
    }
    quoted = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
    return [
        "instance_group { kind: KIND_CPU count: 1 }",
        *(
            f'parameters {{ key: "{key}" value {{ string_value: {value} }} }}'
            for key, value in quoted.items()
        ),
    ]
