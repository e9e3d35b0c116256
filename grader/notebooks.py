"""Reading notebooks, trusted and untrusted, and the few facts about cells that grading needs."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

Notebook = dict[str, Any]
Cell = dict[str, Any]
MAX_NOTEBOOK_BYTES = 20 * 2**20
MAX_CELLS = 20_000
MAX_CONTAINERS = 1_000_000
MAX_DEPTH = 100
SHOWN_CHARACTERS = 80


class InvalidNotebookError(ValueError):
    """A file that cannot be graded as a notebook; the message is for the student."""


def read_notebook(path: Path) -> Notebook:
    """Read a notebook of format 4, refusing anything else with one sentence.

    Cells that are no JSON objects are left out and of repeated keys the last counts; everything
    in a cell may still be of any type. Links are not followed, and what the file may cost in
    memory and time is bounded before it is parsed.

    Raises:
        InvalidNotebookError: Not a regular file, too large, not JSON, or not a format-4 notebook.
    """
    name = "".join(c if c.isprintable() else "?" for c in path.name)[:SHOWN_CHARACTERS]
    try:
        content = _read_bounded(path, name)
    except InvalidNotebookError:
        raise
    except (OSError, ValueError):
        raise InvalidNotebookError(f"{name} is not a regular file that can be read") from None
    return _validated(_parsed(content, name), name)


def _read_bounded(path: Path, name: str) -> bytes:
    """The content of a regular file; what was opened is checked, so that no swap goes unseen."""
    with open(path, "rb", opener=_open_itself) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise InvalidNotebookError(f"{name} is not a regular file")
        content = b""
        if status.st_size <= MAX_NOTEBOOK_BYTES:
            content = file.read(MAX_NOTEBOOK_BYTES + 1)
    size = max(status.st_size, len(content))
    if size > MAX_NOTEBOOK_BYTES:
        raise InvalidNotebookError(
            f"{name} has {size} bytes, more than {MAX_NOTEBOOK_BYTES}: clear its outputs"
        )
    return content


def _open_itself(path: str, flags: int) -> int:
    """Open without following a link or waiting for a pipe's writer, where the system can."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _parsed(content: bytes, name: str) -> Any:
    """Parse JSON; its objects and arrays are counted first, for they cost 20 times their bytes."""
    if content.count(b"{") + content.count(b"[") > MAX_CONTAINERS:
        raise InvalidNotebookError(
            f"{name} has more than {MAX_CONTAINERS} brackets: clear its outputs"
        )
    try:
        value = json.loads(content.decode("utf-8-sig"), parse_constant=_not_json)
        if b"\\ud" in content or b"\\uD" in content:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        why = "its text is not UTF-8"
    except UnicodeEncodeError:
        why = "it holds half of a character"
    except RecursionError:
        why = "it is nested too deeply"
    except json.JSONDecodeError as error:
        why = str(error) if content.strip() else "it is empty"
    except ValueError:
        why = "it holds NaN, Infinity or a number of thousands of digits"
    else:
        if _is_shallow(value):
            return value
        why = "it is nested too deeply"
    raise InvalidNotebookError(f"{name} is not a notebook: it is not valid JSON ({why})")


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON's")


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for item in level for child in _containers(item)]
        if not level:
            return True
    return False


def _containers(item: Any) -> Iterator[Any]:
    children = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return (child for child in children if isinstance(child, dict | list))


def _validated(notebook: Any, name: str) -> Notebook:
    version = notebook.get("nbformat") if isinstance(notebook, dict) else None
    if type(version) is not int or version != 4:
        simple = isinstance(version, int | float | str | None)
        said = str(version)[:20] if simple else type(version).__name__
        raise InvalidNotebookError(
            f"{name} is not a notebook of format 4 (it says {said!r}): "
            "open it in JupyterLab and save it again"
        )
    cells = notebook.get("cells")
    if not isinstance(cells, list) or len(cells) > MAX_CELLS:
        raise InvalidNotebookError(f"{name} has no list of at most {MAX_CELLS} cells")
    return {**notebook, "cells": [cell for cell in cells if isinstance(cell, dict)]}


def source(cell: Cell) -> str:
    """A cell's source as one string, whether the file stores a string or a list of lines."""
    value = cell.get("source", "")
    if isinstance(value, list):
        return "".join(part for part in value if isinstance(part, str))
    return value if isinstance(value, str) else ""


def nbgrader(cell: Cell) -> dict[str, Any]:
    """A cell's nbgrader metadata, or an empty dict."""
    metadata = cell.get("metadata")
    found = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    return found if isinstance(found, dict) else {}


def is_solution(cell: Cell) -> bool:
    return nbgrader(cell).get("solution") is True


def is_grade(cell: Cell) -> bool:
    return nbgrader(cell).get("grade") is True


def grade_id(cell: Cell) -> str:
    """A cell's grade_id, or an empty string."""
    value = nbgrader(cell).get("grade_id")
    return value if isinstance(value, str) else ""


def tags(cell: Cell) -> list[str]:
    metadata = cell.get("metadata")
    found = metadata.get("tags") if isinstance(metadata, dict) else None
    return [tag for tag in found if isinstance(tag, str)] if isinstance(found, list) else []


def write_notebook(path: Path, notebook: Notebook) -> None:
    """Write a notebook in nbformat's canonical form."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")
