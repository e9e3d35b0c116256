"""A model's name as a folder in Hugging Face's layout, which transformers and vLLM read."""

from pathlib import Path

from labkit.model import huggingface, zoo
from labkit.runtime.cache import atomic_path, cache_dir, locked


def model_folder(name: str) -> Path:
    """The folder itself, or an export of what the zoo (or the hub) has under the name.

    Raises:
        ValueError, OSError: As `zoo.load`.
    """
    if Path(name).is_dir():
        return Path(name)
    folder = cache_dir() / "exported" / name.replace("/", "--")
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not folder.is_dir():
            loaded = zoo.load(name, dtype="auto", device="cpu")
            with atomic_path(folder) as temporary:
                huggingface.save_folder(loaded.model, loaded.tokenizer, temporary)
    return folder
