"""labkit: reference implementations of LLM engineering, one module an idea.

Packages, bottom to top: `runtime`; `model`, `data`, `quant`, `objectives`; `tuning`, `compression`;
`training`, `inference`; `evaluation`, `plotting`; `serving`; and the command line in `cli`.

The names one begins with can be imported from here:

- `ModelConfig`: the numbers that define a model, and presets of them.
- `MiniLLM`: the model.
- `Tokenizer`: text to token ids and back.
- `DataLoader`: batches of examples, the same ones each time.
- `TrainConfig`, `Trainer`: a training run's settings, and the run.
- `Generator`: text from a model.

`import labkit` itself loads nothing heavy: a name's module is imported when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labkit.data.loader import DataLoader as DataLoader
    from labkit.inference.generator import Generator as Generator
    from labkit.model.config import ModelConfig as ModelConfig
    from labkit.model.minillm import MiniLLM as MiniLLM
    from labkit.model.tokenizer import Tokenizer as Tokenizer
    from labkit.training.config import TrainConfig as TrainConfig
    from labkit.training.trainer import Trainer as Trainer

__version__ = "0.1.0"

_HOMES = {
    "DataLoader": "labkit.data.loader",
    "Generator": "labkit.inference.generator",
    "MiniLLM": "labkit.model.minillm",
    "ModelConfig": "labkit.model.config",
    "Tokenizer": "labkit.model.tokenizer",
    "TrainConfig": "labkit.training.config",
    "Trainer": "labkit.training.trainer",
}


def __getattr__(name: str) -> object:
    """Import a public name's module when the name is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'labkit' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
