"""A page for each student: what was expected, what came, the hint, their own code."""

from html import escape
from pathlib import Path

from grader.course import Course
from grader.html_page import page, paragraph, table
from grader.notebooks import Notebook, grade_id, is_solution, read_notebook, source
from grader.results import Result, read_results


def write(course: Course, lab: str) -> list[Path]:
    """Write the feedback pages of everybody graded; ValueError if nobody was."""
    results = read_results(course.reports(lab) / "results")
    if not results:
        raise ValueError(f"{lab} has no results yet: run `grader autograde {lab}` first")
    paths = []
    for result in results:
        path = course.feedback(lab, result.student)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(result, _notebook(course, result)), encoding="utf-8")
        paths.append(path)
    return paths


def _notebook(course: Course, result: Result) -> Notebook | None:
    path = course.autograded(result.lab, result.student)
    return read_notebook(path) if result.cells and path.is_file() else None


def render(result: Result, notebook: Notebook | None) -> str:
    """One student's page."""
    title = f"{result.lab}: {result.score:g} of {result.max_score:g} points"
    parts = [
        f"<h1>{escape(title)}</h1>",
        table(["Student", "Status"], [[result.student, result.status.value]]),
    ]
    if result.reason:
        parts.append(paragraph(result.reason))
    if result.cells:
        rows = [
            [
                cell.check,
                "more inputs" if cell.hidden else "as in the notebook",
                cell.status.value,
                f"{cell.score:g} / {cell.points:g}",
                cell.message,
            ]
            for cell in result.cells
        ]
        parts.append(table(["Exercise", "Inputs", "Status", "Points", "What to look at"], rows))
    if result.notes:
        notes = "".join(f"<li>{escape(note)}</li>" for note in result.notes)
        parts.append(f"<h2>Notes</h2><ul>{notes}</ul>")
    if notebook is not None:
        parts.append("<h2>What was graded</h2>" + _answers(notebook))
    return page(title, "\n".join(parts))


def _answers(notebook: Notebook) -> str:
    blocks = [
        f"<p><code>{escape(grade_id(cell))}</code></p><pre>{escape(source(cell))}</pre>"
        for cell in notebook["cells"]
        if is_solution(cell)
    ]
    return "".join(blocks)
