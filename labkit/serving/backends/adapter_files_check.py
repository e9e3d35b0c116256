"""What is asked of an adapter's files before another library gets them."""

import json
from pathlib import Path

from labkit.inference.adapters.errors import (
    InvalidAdapterError,
    MismatchedAdapterError,
    UnsupportedAdapterError,
)
from labkit.inference.adapters.header import read_header

MAX_BYTES = 2**32
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def check_files(folder: Path, max_rank: int) -> int:
    """The rank of a plain LoRA whose files look sound; nothing in them is run.

    DoRA, trained biases and whole modules are refused: they change what all requests share.

    Raises:
        AdapterError: It is refused, for the reason that its class says.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        rank = int(config["r"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidAdapterError(f"{folder / CONFIG} cannot be read: {error}") from error
    read_header(folder / WEIGHTS, max_bytes=MAX_BYTES)
    strange = {
        f"peft_type={config.get('peft_type')!r}": config.get("peft_type") != "LORA",
        "use_dora": bool(config.get("use_dora")),
        f"bias={config.get('bias')!r}": config.get("bias", "none") != "none",
        "modules_to_save": bool(config.get("modules_to_save")),
    }
    if found := [name for name, holds in strange.items() if holds]:
        raise UnsupportedAdapterError(f"{folder} has {', '.join(found)}: only plain LoRA goes here")
    if not 1 <= rank <= max_rank:
        raise MismatchedAdapterError(f"{folder} has rank {rank}, above max_rank={max_rank}")
    return rank
