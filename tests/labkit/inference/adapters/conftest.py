"""Four adapters that differ in rank, scaling and targets, and a bank that holds them."""

from pathlib import Path

import pytest
import torch

from labkit.inference.adapters.bank import AdapterBank
from labkit.model.minillm import MiniLLM

from .made import made

OPTIONS = {
    "finance": {},
    "medical": {"rank": 5, "alpha": 3.0, "target_modules": ("q_proj", "v_proj", "down_proj")},
    "python": {"rank": 2, "use_rslora": True, "target_modules": ("k_proj", "up_proj", "o_proj")},
    "one-layer": {"rank": 7, "target_modules": ("model.layers.1.mlp.gate_proj",)},
}


@pytest.fixture
def folders(tiny_model: MiniLLM, tmp_path: Path) -> dict[str, Path]:
    return {
        name: made(tiny_model, tmp_path / name, seed, **options)
        for seed, (name, options) in enumerate(OPTIONS.items())
    }


@pytest.fixture
def bank(tiny_model: MiniLLM, folders: dict[str, Path]) -> AdapterBank:
    bank = new_bank(tiny_model)
    for name, folder in folders.items():
        bank.mount(name, folder)
    return bank


def new_bank(model: MiniLLM, **options: object) -> AdapterBank:
    limits = {"dtype": torch.float32, "device": "cpu", "max_rank": 8, "max_adapters": 5}
    return AdapterBank(model.config, **(limits | options))
