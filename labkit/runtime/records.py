"""Measured results as JSON lines: value, spread, seeds, hardware, commit, command."""

import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from labkit.runtime.errors import CorruptFileError

JSON = str | int | float | bool | None


def hardware() -> dict[str, JSON]:
    """Processor, cores, GPU and library versions of this machine."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def current_commit() -> str:
    """The commit of the working folder, with "+" if tracked files differ; "" outside git."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One measured value with everything needed to believe it or to measure it again.

    Attributes:
        metric: what was measured, such as "decode" or "perplexity".
        unit: unit of `value` and `spread`, such as "tok/s".
        spread: half width of the interval or standard deviation over seeds; None if taken once.
        hardware: what `hardware()` returned there.
        extra: settings that belong to this row (model, batch size, ...).
    """

    metric: str
    value: float
    unit: str
    spread: float | None = None
    seeds: tuple[int, ...] = ()
    hardware: dict[str, JSON] = field(default_factory=hardware)
    commit: str = field(default_factory=current_commit)
    command: str = field(default_factory=lambda: " ".join(sys.argv))
    extra: dict[str, Any] = field(default_factory=dict)


def committed(name: str) -> list[Record]:
    """The records that stand in the checkout's `datasets/<name>/records.jsonl`.

    Raises:
        FileNotFoundError: there are none, as where only the package is installed.
    """
    path = Path(__file__).parents[2] / "datasets" / name / "records.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"no {path}: run this in a checkout of the course")
    return load_records(path)


def append_record(path: Path, record: Record) -> None:
    """Adds one line to `path`, making the file and its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record), sort_keys=True) + "\n")


def load_records(path: Path) -> list[Record]:
    """Every record of a JSON-lines file.

    Raises:
        CorruptFileError: a line is not a record; the message names file and line.
    """
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            records.append(_parse(line, f"{path}, line {number}"))
    return records


def _parse(line: str, where: str) -> Record:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise CorruptFileError(f"{where}: not JSON ({error})") from error
    names = {item.name for item in fields(Record)}
    if not isinstance(row, dict) or set(row) != names:
        raise CorruptFileError(f"{where}: a record has exactly the keys {sorted(names)}")
    return Record(**{**row, "seeds": tuple(row["seeds"])})


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    result = subprocess.run(("git", *arguments), check=True, capture_output=True, text=True)
    return result.stdout.strip()
