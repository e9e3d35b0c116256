"""The cells a person grades: what of a student's work they are shown, and how it is recognised.

Written answers and plots are cells with `grade` and `solution`; a task is a locked question below
which students add cells of their own. None of them is run: a lab's plots need its real model and
minutes, and a picture drawn again would come from the student's code all the same. So what the
student's notebook stored is shown, as text and PNG only, and it is for a person to judge.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterator

from grader.notebooks import Cell, Notebook, grade_id, is_grade, is_solution, nbgrader, source

MAX_WORK_CELLS = 50
MAX_OUTPUTS = 20
MAX_TEXT_CHARACTERS = 20_000
MAX_PICTURE_BYTES = 4 * 2**20
MAX_PICTURE_PIXELS = 25_000_000
PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
TASK_KEY = "grader_task"
TAG_START = re.compile(r"<(?=[A-Za-z/!?])")
LINK_START = re.compile(r"\](?=[(:])")
ATTACHED = re.compile(r"!\[([^\[\]<>`~\n]*)\]\(attachment:([A-Za-z0-9_.-]+)\)")
DIAGRAM = re.compile(r"(?m)^(\s*(?:`{3,}|~{3,})\s*)mermaid")


def is_task(cell: Cell) -> bool:
    return nbgrader(cell).get("task") is True


def is_manual(cell: Cell) -> bool:
    """Whether a person grades this cell: an answer with points, or a task."""
    return is_task(cell) or (is_grade(cell) and is_solution(cell))


def carry(notebook: Notebook, submitted: Notebook) -> None:
    """Put a submission's outputs and added cells, as far as they may be shown, into `notebook`.

    Args:
        notebook: The release notebook with the student's answers already in it; changed in place.
        submitted: The student's notebook, unchecked.
    """
    stored = {grade_id(cell): cell for cell in submitted["cells"]}
    cells: list[Cell] = []
    for cell in notebook["cells"]:
        cells.append(cell)
        if is_task(cell):
            cells += _work_below(grade_id(cell), notebook, submitted)
        elif is_solution(cell) and (mine := stored.get(grade_id(cell))) is not None:
            _carry_pictures(cell, mine)
    notebook["cells"] = cells


def answers(notebook: Notebook) -> dict[str, str]:
    """A hash of the student's work for each manual cell of a transplanted notebook."""
    parts: dict[str, list[Cell]] = {}
    for cell in notebook["cells"]:
        if is_manual(cell):
            parts[grade_id(cell)] = [cell]
        elif (task := _task_of(cell)) in parts:
            parts[task].append(cell)
    return {name: _digest(cells) for name, cells in parts.items()}


def shown(cell: Cell) -> Cell:
    """A solution cell or added cell with its Markdown made harmless; other cells as they are.

    Formgrader renders Markdown without cleaning it, in the session of whoever grades: tags and
    links of a student would run there. They are kept readable and inert; code and formulas
    keep their meaning.
    """
    if cell["cell_type"] != "markdown" or not (is_solution(cell) or _task_of(cell)):
        return cell
    return {**cell, "source": _inert(source(cell), set(cell.get("attachments", ())))}


def _inert(text: str, attachments: set[str]) -> str:
    parts, end = [], 0
    for match in ATTACHED.finditer(text):
        if match[2] in attachments:
            parts += [_inert_part(text[end : match.start()]), match[0]]
            end = match.end()
    return "".join([*parts, _inert_part(text[end:])])


def _inert_part(text: str) -> str:
    return DIAGRAM.sub(r"\1text", LINK_START.sub("] ", TAG_START.sub("< ", text)))


def _task_of(cell: Cell) -> str:
    return str(cell["metadata"].get(TASK_KEY, ""))


def _digest(cells: list[Cell]) -> str:
    work = [
        [cell["cell_type"], source(cell), cell.get("outputs"), cell.get("attachments")]
        for cell in cells
    ]
    return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()


def _work_below(task: str, release: Notebook, submitted: Notebook) -> list[Cell]:
    """The cells a student added after a task, up to the next cell of the release."""
    names = {grade_id(cell) for cell in release["cells"]} - {""}
    texts = {source(cell) for cell in release["cells"] if not grade_id(cell)}
    work: list[Cell] = []
    below = False
    for cell in submitted["cells"]:
        if grade_id(cell) in names or source(cell) in texts:
            below = grade_id(cell) == task
        elif below and source(cell).strip() and len(work) < MAX_WORK_CELLS:
            work.append(_work_cell(cell, task, len(work)))
    return work


def _work_cell(cell: Cell, task: str, number: int) -> Cell:
    code = cell.get("cell_type") == "code"
    name = hashlib.sha256(f"{task}:{number}".encode()).hexdigest()[:16]
    made: Cell = {
        "cell_type": "code" if code else "markdown",
        "id": f"work-{name}",
        "metadata": {TASK_KEY: task},
        "source": source(cell),
    }
    if code:
        made |= {"execution_count": None, "outputs": []}
    _carry_pictures(made, cell)
    return made


def _carry_pictures(cell: Cell, mine: Cell) -> None:
    """Copy outputs of a cell that is not run, and a text's attachments."""
    if cell["cell_type"] == "markdown":
        if attached := dict(_attachments(mine)):
            cell["attachments"] = attached
    elif is_manual(cell) or _task_of(cell):
        cell["outputs"] = list(_outputs(mine))


def _attachments(cell: Cell) -> Iterator[tuple[str, dict[str, str]]]:
    found = cell.get("attachments")
    for name, bundle in list(found.items())[:MAX_OUTPUTS] if isinstance(found, dict) else ():
        if picture := _picture(bundle):
            yield str(name), {"image/png": picture}


def _outputs(cell: Cell) -> Iterator[Cell]:
    found = cell.get("outputs")
    for output in found[:MAX_OUTPUTS] if isinstance(found, list) else ():
        if not isinstance(output, dict):
            continue
        if picture := _picture(output.get("data")):
            data = {"image/png": picture}
            yield {"output_type": "display_data", "metadata": {}, "data": data}
        elif text := _text(output):
            yield {"output_type": "stream", "name": "stdout", "text": text}


def _text(output: Cell) -> str:
    data = output.get("data")
    found = output.get("text") if data is None else _member(data, "text/plain")
    lines = found if isinstance(found, list) else [found]
    return "".join(line for line in lines if isinstance(line, str))[:MAX_TEXT_CHARACTERS]


def _member(bundle: object, kind: str) -> object:
    return bundle.get(kind) if isinstance(bundle, dict) else None


def _picture(bundle: object) -> str:
    """The PNG of a MIME bundle as plain base64; an empty string if there is none to be shown."""
    found = _member(bundle, "image/png")
    text = "".join(map(str, found)) if isinstance(found, list) else found
    if not isinstance(text, str) or len(text) > 2 * MAX_PICTURE_BYTES:
        return ""
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return ""
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    small = len(data) <= MAX_PICTURE_BYTES and 0 < width * height <= MAX_PICTURE_PIXELS
    return base64.b64encode(data).decode() if data.startswith(PNG_START) and small else ""
