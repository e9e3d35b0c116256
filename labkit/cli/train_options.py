"""What `labkit train` can be told, and the TOML file that can tell it."""

import argparse
import difflib
import tomllib
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from labkit.cli import spreading

DEFAULT_LR = {
    "full": 1e-4,
    "lora": 1e-3,
    "qlora": 1e-3,
    "dora": 1e-3,
    "adalora": 3e-3,
    "ia3": 1e-2,
    "prompt": 3e-2,
    "p-tuning": 1e-3,
    "p-tuning-v2": 3e-2,
    "prefix": 1e-3,
}
OF_LORA = ("rank", "alpha", "dropout", "targets", "rslora")
TAKES_LORA = ("lora", "qlora", "dora")
_WORDS = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a string",
    Path: "a string",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions:
    """The options, under the names that a file uses; the command's help says what each means."""

    model: str
    out: Path
    overwrite: bool = False
    dtype: str = "auto"
    device: str = "auto"
    method: str = "lora"
    data: str = "pydoc"
    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    targets: str = "all-linear"
    rslora: bool = False
    steps: int = 60
    lr: float | None = None
    warmup: int | None = None
    min_lr_ratio: float = 0.1
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    batch_size: int = 2
    accumulation: int = 1
    length: int = 256
    seed: int = 0
    strategy: str = "none"
    nproc: int = 1
    checkpoint: Path | None = None
    checkpoint_every: int = 0
    resume: bool = False
    log_every: int = 10
    track: bool = False
    run_name: str | None = None
    json: bool = False

    def __post_init__(self) -> None:
        if self.method not in DEFAULT_LR:
            known = ", ".join(map(repr, sorted(DEFAULT_LR)))
            raise ValueError(f"method={self.method!r} is unknown: use one of {known}")
        self._check_lora()
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1")
        spreading.check(self.strategy, self.nproc, self.device)
        if self.strategy in ("tp", "pp") and self.method != "full":
            raise ValueError(
                f"strategy={self.strategy!r} splits the matrices that method={self.method!r} keeps "
                "whole: use method full, or another strategy"
            )
        if self.strategy != "none" and self.method == "adalora":
            raise ValueError(
                f"method='adalora' reallocates ranks after each step, which "
                f"strategy={self.strategy!r} does not: use strategy none"
            )
        if self.checkpoint is None and (self.resume or self.checkpoint_every):
            raise ValueError("resume and checkpoint_every need checkpoint, the folder they use")

    def _check_lora(self) -> None:
        """Options of LoRA go with methods that are LoRA."""
        if self.method in TAKES_LORA:
            return
        usual = {field.name: field.default for field in fields(self)}
        if given := [name for name in OF_LORA if getattr(self, name) != usual[name]]:
            raise ValueError(
                f"{given[0]}={getattr(self, given[0])!r} is an option of LoRA, and "
                f"method={self.method!r} takes none: leave it out, or use {', '.join(TAKES_LORA)}"
            )


FIELDS = {field.name: field for field in fields(TrainOptions)}


def resolve(args: argparse.Namespace) -> argparse.Namespace:
    """All options: those of the command line, then those of --config's file, then defaults.

    Args:
        args: parsed; None stands for an option that was not given.

    Raises:
        ValueError: the file is not TOML, a key is unknown, a value of another type or impossible,
            or the model or the folder to write stands in neither.
        OSError: there is no such file.
    """
    given = {name: getattr(args, name) for name in FIELDS if getattr(args, name) is not None}
    stored = {} if args.config is None else read(args.config)
    values = stored | given
    required = [name for name, field in FIELDS.items() if field.default is MISSING]
    if missing := [name for name in required if name not in values]:
        raise ValueError(
            f"{args.config} has no {' and no '.join(missing)}: give it there or on the command line"
        )
    return argparse.Namespace(**asdict(TrainOptions(**values)))


def read(path: Path) -> dict[str, Any]:
    """The options in a TOML file, each of its field's type.

    Raises:
        ValueError, OSError: as `resolve`; the message names the file.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also what is not UTF-8
        raise ValueError(f"{path} is not TOML: {error}") from error
    if unknown := [name for name in content if name not in FIELDS]:
        told = "; ".join(f"{name!r} (nearest: {_nearest(name)!r})" for name in unknown)
        raise ValueError(f"{path} has unknown keys: {told}")
    return {name: _typed(name, value, path) for name, value in content.items()}


def _nearest(name: str) -> str:
    [nearest] = difflib.get_close_matches(name, list(FIELDS), n=1, cutoff=0.0)
    return nearest


def _typed(name: str, value: Any, path: Path) -> Any:
    """The value if its type is the field's; a whole number also stands for a float."""
    annotation = FIELDS[name].type
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind in _WORDS]
    if type(value) in kinds:  # not isinstance: true is no number here
        return value
    if type(value) is int and float in kinds:
        return float(value)
    if type(value) is str and Path in kinds:
        return Path(value)
    raise ValueError(f"{path}: {name} = {value!r} must be {_WORDS[kinds[0]]}")
