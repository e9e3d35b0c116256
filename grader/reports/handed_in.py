"""What a student handed in, as HTML: their code, their written answers and their plots."""

from collections.abc import Iterator

from grader.gradebook.final_scores import Entry
from grader.html_page import box, paragraph, picture, pill, text
from grader.manual import TASK_KEY, is_manual, is_task
from grader.notebooks import Cell, Notebook, grade_id, is_solution, source
from grader.reports.spreadsheet import as_points

MAX_CHARACTERS = 20_000
MAX_PICTURE_CHARACTERS = 8 * 2**20


def exercises_code(notebook: Notebook) -> dict[str, str]:
    """The code of each exercise that a check grades, by the solution cell's name."""
    return {
        grade_id(cell): _pre(source(cell))
        for cell in notebook["cells"]
        if is_solution(cell) and not is_manual(cell)
    }


def manual_work(notebook: Notebook, entry: Entry) -> list[str]:
    """The answers a person grades, with points and comments, and everything shown of them.

    Pictures are left out from where a page would become larger than mail and browsers like.
    """
    sections = []
    room = MAX_PICTURE_CHARACTERS
    for cell in notebook["cells"]:
        if not is_manual(cell):
            continue
        body = [_heading(grade_id(cell), entry)]
        if comment := entry.comments.get(grade_id(cell)):
            body.append(box(comment, heading="Comment"))
        for part in _parts(notebook, cell):
            body.append(_pre(source(part)))
            for kind, content in _shown(part):
                room -= len(content) if kind == "picture" else 0
                fits = kind != "picture" or room >= 0
                body.append(_output(kind, content) if fits else paragraph("A picture is left out."))
        sections.append(f"<section>{''.join(body)}</section>")
    return ["<h2>Graded by a person</h2>", *sections] if sections else []


def _heading(name: str, entry: Entry) -> str:
    cell = entry.cells.get(name)
    if cell is None or cell.waiting:
        points = pill("waiting to be graded")
    else:
        said = f"{as_points(cell.points)} / {as_points(cell.max_score)} points"
        points = f'<span class="points">{said}</span>'
    return f"<header><h3>{text(name)}</h3>{points}</header>"


def _parts(notebook: Notebook, cell: Cell) -> list[Cell]:
    """An answer is its own cell; a task's are the cells added below it."""
    if not is_task(cell):
        return [cell]
    mine = grade_id(cell)
    return [c for c in notebook["cells"] if c.get("metadata", {}).get(TASK_KEY) == mine]


def _shown(cell: Cell) -> Iterator[tuple[str, str]]:
    """Outputs and attachments as far as `grader.manual` let them through."""
    for bundle in cell.get("attachments", {}).values():
        if png := bundle.get("image/png"):
            yield "picture", png
    for output in cell.get("outputs", []):
        if png := output.get("data", {}).get("image/png"):
            yield "picture", png
        elif isinstance(said := output.get("text"), str):
            yield "text", said


def _output(kind: str, content: str) -> str:
    return picture(content, "Your plot") if kind == "picture" else _pre(content)


def _pre(code: str) -> str:
    left = len(code) - MAX_CHARACTERS
    more = f"\n… {left} more characters" if left > 0 else ""
    return f"<pre>{text(code[:MAX_CHARACTERS] + more)}</pre>"
