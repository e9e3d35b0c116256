"""Reading notebooks, trusted and untrusted, and the few facts about cells that grading needs."""

import json
from pathlib import Path
from typing import Any

Notebook = dict[str, Any]
Cell = dict[str, Any]
MAX_NOTEBOOK_BYTES = 20 * 2**20
MAX_CELLS = 2_000


class InvalidNotebookError(ValueError):
    """A file that cannot be graded as a notebook; the message is for the student."""


def read_notebook(path: Path) -> Notebook:
    """Read a notebook of format 4, refusing anything else with one sentence.

    Raises:
        InvalidNotebookError: Not a regular file, too large, not JSON, or not a format-4 notebook.
    """
    if path.is_symlink() or not path.is_file():
        raise InvalidNotebookError(f"{path.name} is not a regular file")
    size = path.stat().st_size
    if size > MAX_NOTEBOOK_BYTES:
        raise InvalidNotebookError(
            f"{path.name} has {size} bytes, more than {MAX_NOTEBOOK_BYTES}: clear its outputs"
        )
    try:
        notebook = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise InvalidNotebookError(f"{path.name} is not a notebook: it is not valid JSON") from None
    return _validated(notebook, path.name)


def _validated(notebook: Any, name: str) -> Notebook:
    version = notebook.get("nbformat") if isinstance(notebook, dict) else None
    if version != 4:
        raise InvalidNotebookError(
            f"{name} is not a notebook of format 4 (it says {str(version)[:20]!r}): "
            "open it in JupyterLab and save it again"
        )
    cells = notebook.get("cells")
    if not isinstance(cells, list) or len(cells) > MAX_CELLS:
        raise InvalidNotebookError(f"{name} has no list of at most {MAX_CELLS} cells")
    return dict(notebook)


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
