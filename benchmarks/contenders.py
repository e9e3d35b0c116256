"""The engines of `benchmarks.inference`: what each is, and a worker process for it."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import run
from typing import Any

from benchmarks.engines.worker import ROOT, Worker
from labkit.model import huggingface, zoo
from labkit.runtime.cache import atomic_path, cache_dir

COURSE = Path(sys.executable)
VLLM, LLAMACPP = (ROOT / f".venv-{name}" / "bin" / "python" for name in ("vllm", "llamacpp"))
VLLM_ENV = {
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """One engine in one setting.

    Attributes:
        name: Of its rows.
        family: Whose it is.
        module: Of `benchmarks.engines`.
        settings: Of its worker; "FOLDER", "GGUF", "Q8_0" and "THREADS" are filled in.
        python: Of its environment.
        env: Of its process.
        stepped: Its logits can be had one token a step.
        once_from: Batch from which on it is too slow to be asked in every round: it is asked once.
        serves: Whether it is asked to serve the load.
    """

    name: str
    family: str
    module: str
    settings: dict[str, Any]
    python: Path = COURSE
    env: dict[str, str] = field(default_factory=dict)
    stepped: bool = True
    once_from: int | None = None
    serves: bool = True


def _pace(dtype: str) -> dict[str, Any]:
    """float32 is there for comparison, not for speed."""
    return {"once_from": 1, "serves": False} if dtype == "float32" else {}


def _ours(weights: str, dtype: str) -> Contender:
    name = f"labkit {dtype if weights == 'model' else weights}"
    settings = {"model": "MODEL", "weights": weights, "dtype": dtype}
    return Contender(name=name, family="labkit", module="ours", settings=settings, **_pace(dtype))


def _transformers(dtype: str) -> Contender:
    settings = {"model": "FOLDER", "dtype": dtype}
    name = f"transformers {dtype}"
    return Contender(
        name=name,
        family="transformers",
        module="hf",
        settings=settings,
        stepped=False,
        **_pace(dtype),
    )


def _vllm(name: str, *, eager: bool) -> Contender:
    return Contender(
        name=f"vLLM bfloat16 {name}",
        family="vLLM",
        module="vllm_cpu",
        settings={"model": "FOLDER", "eager": eager},
        python=VLLM,
        env=VLLM_ENV,
        stepped=False,
    )


def _llamacpp(file: str, name: str, once_from: int | None = None) -> Contender:
    settings = {"model": file, "threads": "THREADS"}
    return Contender(
        name=f"llama.cpp {name}",
        family="llama.cpp",
        module="llamacpp",
        settings=settings,
        python=LLAMACPP,
        once_from=once_from,
        serves=False,
    )


REFERENCE = "transformers float32"
ALL = (
    _ours("bfloat16", "bfloat16"),
    _ours("int8", "bfloat16"),
    _ours("model", "float32"),
    _transformers("bfloat16"),
    _transformers("float32"),
    _vllm("eager", eager=True),
    _vllm("compiled", eager=False),
    _llamacpp("GGUF", "Q4_1", once_from=32),  # it has no kernel for many tokens at a time
    _llamacpp("Q8_0", "Q8_0"),
)


@contextmanager
def started(
    contenders: Sequence[Contender], model: str, threads: int
) -> Iterator[dict[str, Worker]]:
    """A loaded worker for each contender; all end with the block.

    Args:
        contenders: Whom to start, one after the other's loading.
        model: Of `zoo.load`.
        threads: OpenMP threads of each.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        filled: dict[str, Any] = {"MODEL": model, "THREADS": threads}
        if any(c.family in ("transformers", "vLLM") for c in contenders):
            filled["FOLDER"] = str(_exported(model, scratch / "model"))
        if any(c.family == "llama.cpp" for c in contenders):
            source = zoo.smollm2_gguf()
            filled |= {"GGUF": str(source), "Q8_0": str(_requantized(source))}
        workers = {}
        for contender in contenders:
            settings = {
                name: filled.get(value, value) if isinstance(value, str) else value
                for name, value in contender.settings.items()
            }
            worker = Worker(
                contender.module,
                settings,
                python=contender.python,
                threads=threads,
                log=scratch / f"{contender.name}.log",
                env=contender.env,
            )
            stack.callback(worker.close)
            workers[contender.name] = worker
        with ThreadPoolExecutor(len(workers)) as pool:
            list(pool.map(lambda worker: worker.ask("ready"), workers.values()))
        yield workers


def _exported(model: str, folder: Path) -> Path:
    """The model in the weights' own bfloat16, in Hugging Face's layout."""
    loaded = zoo.load(model, dtype="bfloat16", device="cpu")
    huggingface.save_folder(loaded.model, loaded.tokenizer, folder)
    return folder


def _requantized(source: Path) -> Path:
    """The Q8_0 file in the cache, made by llama.cpp's own quantizer if it is not there yet."""
    target = cache_dir() / f"{source.stem}-{source.stat().st_size}-Q8_0.gguf"
    if not target.exists():
        with atomic_path(target) as path:
            command = [LLAMACPP, "-m", "benchmarks.engines.llamacpp", "quantize", source, path]
            run([str(word) for word in command], cwd=ROOT, check=True, capture_output=True)
    return target
