"""Loaders for files people have: WikiText-2 text, Alpaca-style instructions."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labkit.data.chat import Message
from labkit.runtime.errors import CorruptFileError

WIKITEXT_NAMES = {
    "train": ("train.txt", "wiki.train.tokens", "wiki.train.raw"),
    "valid": ("valid.txt", "wiki.valid.tokens", "wiki.valid.raw"),
    "test": ("test.txt", "wiki.test.tokens", "wiki.test.raw"),
}


def load_wikitext2(folder: Path | str, split: str) -> str:
    """The text of one split, unchanged.

    Args:
        folder: holds the files under one of their usual names (`test.txt`, `wiki.test.tokens`,
            `wiki.test.raw`).
        split: "train", "valid" or "test".

    Raises:
        ValueError: no such split.
        FileNotFoundError: the folder holds none of its files.
        CorruptFileError: the file is empty or not UTF-8.
    """
    if split not in WIKITEXT_NAMES:
        raise ValueError(f"split={split!r} must be one of {sorted(WIKITEXT_NAMES)}")
    candidates = [Path(folder) / name for name in WIKITEXT_NAMES[split]]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder} holds none of {', '.join(WIKITEXT_NAMES[split])}")
    text = _read(path)
    if not text.strip():
        raise CorruptFileError(f"{path} is empty")
    return text


def load_alpaca(path: Path | str) -> list[list[Message]]:
    """Instruction rows as chats; the input, if any, follows the instruction after an empty line.

    Args:
        path: a JSON array of objects with "instruction", "output" and perhaps "input"; or, named
            `.jsonl`, one object a line.

    Raises:
        FileNotFoundError: no such file.
        CorruptFileError: the file is no JSON of that form.
        ValueError: a row lacks a text; the message names file and row, counted from 1.
    """
    path = Path(path)
    rows = list(_rows(path))
    if not rows:
        raise CorruptFileError(f"{path} holds no rows")
    return [_chat(row, f"{path}, row {number}") for number, row in enumerate(rows, start=1)]


def _rows(path: Path) -> Iterator[Any]:
    text = _read(path)
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                yield _parse(line, f"{path}, line {number}")
        return
    rows = _parse(text, str(path))
    if not isinstance(rows, list):
        raise CorruptFileError(f"{path} holds {type(rows).__name__}, not an array of rows")
    yield from rows


def _chat(row: Any, where: str) -> list[Message]:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: {type(row).__name__} is not an object with an instruction")
    for key in ("instruction", "output"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise ValueError(
                f"{where}: {key!r} must be a text that is not empty, got {row.get(key)!r}"
            )
    extra = row.get("input") or ""
    if not isinstance(extra, str):
        raise ValueError(f"{where}: 'input' must be a text, got {extra!r}")
    question = f"{row['instruction']}\n\n{extra}" if extra.strip() else row["instruction"]
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": row["output"]},
    ]


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise CorruptFileError(f"{where} is not JSON: {error}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{path} is not UTF-8 text: {error}") from error
