"""Adapters as training leaves them, on disk: the files that labkit.tuning writes."""

import copy
import dataclasses
from pathlib import Path

import torch

from labkit.model.minillm import MiniLLM
from labkit.tuning import adapter_files, lora
from labkit.tuning.lora import LoraConfig


def made(model: MiniLLM, folder: Path, seed: int, **options: object) -> Path:
    """A trained adapter of a model, which stays as it is; its outputs move by about their size."""
    config = dataclasses.replace(
        LoraConfig(rank=3, alpha=7.0, target_modules="all-linear"), **options
    )
    generator = torch.Generator().manual_seed(seed)
    adapted = lora.apply(copy.deepcopy(model), config, generator=generator)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3, generator=generator)
    adapter_files.save(adapted, folder, config)
    return folder


def alone(model: MiniLLM, folder: Path | None, ids: torch.Tensor) -> torch.Tensor:
    """Logits of the model under one adapter, through labkit.tuning."""
    model = copy.deepcopy(model)
    if folder is not None:
        adapter_files.load(model, folder)
    with torch.no_grad():
        return model(ids)
