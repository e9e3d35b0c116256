"""Which base model an adapter was trained on, as a hash that its file can carry.

Names do not tell: the same name may mean another revision, and a path another model tomorrow.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from labkit.model.minillm import MiniLLM
from labkit.runtime.cache import atomic_path
from labkit.tuning.adapter_files import WEIGHTS_NAME

KEY = "base_fingerprint"  # in the metadata of the adapter's safetensors file
_SAMPLES = 64


def fingerprint(model: MiniLLM) -> str:
    """SHA-256 over the configuration and up to 64 evenly spaced weights of every parameter.

    The weights are rounded to bfloat16, so that a model loaded in float32 and in bfloat16 is the
    same one. Sampling makes it cheap, and any fine-tuning moves the samples; it identifies, and it
    does not guard against somebody who wants two models to agree. Quantized and adapted models have
    other parameters: take it before.
    """
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(model.config), sort_keys=True).encode())
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(_sample(parameter.detach()))
    return digest.hexdigest()


def record(folder: str | Path, value: str) -> None:
    """Write the base's fingerprint into an adapter's file; its tensors stay as they are.

    Raises:
        OSError: the folder holds no such file.
    """
    path = Path(folder) / WEIGHTS_NAME
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
    tensors = load_file(path)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={**metadata, KEY: value})


def _sample(values: Tensor) -> bytes:
    flat = values.flatten()
    index = torch.linspace(0, len(flat) - 1, min(_SAMPLES, len(flat)), dtype=torch.float64).long()
    rounded = flat[index.to(flat.device)].cpu().to(torch.bfloat16)
    return rounded.view(torch.int16).numpy().tobytes()
