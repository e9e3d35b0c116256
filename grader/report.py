"""The class at a glance: who got what and why, and how each exercise went."""

from collections import Counter
from html import escape
from pathlib import Path

from grader.course import Course
from grader.html_page import page, paragraph, table
from grader.results import CellResult, Result, read_results

COMMON_MESSAGES = 3


def write(course: Course, lab: str) -> Path:
    """Write the class report of a lab; ValueError if nothing was graded."""
    results = read_results(course.reports(lab) / "results")
    if not results:
        raise ValueError(f"{lab} has no results yet: run `grader autograde {lab}` first")
    path = course.reports(lab) / "class.html"
    path.write_text(render(lab, results), encoding="utf-8")
    return path


def render(lab: str, results: list[Result]) -> str:
    """The report's page."""
    scored = [result for result in results if result.cells]
    mean = sum(result.score for result in scored) / len(scored) if scored else 0.0
    most = scored[0].max_score if scored else 0.0
    tiers = ", ".join(sorted({result.tier for result in results}))
    head = (
        f"{len(results)} submissions, {len(results) - len(scored)} of them invalid. "
        f"Mean {mean:.1f} of {most:g} points. Held in: {tiers}."
    )
    rows = [
        [
            result.student,
            result.status.value,
            f"{result.score:g} / {result.max_score:g}",
            f"{result.seconds:.1f} s",
            result.reason or " ".join(result.notes),
        ]
        for result in results
    ]
    body = [
        f"<h1>{escape(lab)}</h1>",
        paragraph(head),
        table(["Student", "Status", "Points", "Time", "Why"], rows),
        "<h2>Exercises</h2>",
        table(["Exercise", "Full points", "Most common messages"], _exercises(scored)),
    ]
    return page(f"{lab}: class report", "\n".join(body))


def _exercises(results: list[Result]) -> list[list[str]]:
    by_check: dict[str, list[list[CellResult]]] = {}
    for result in results:
        for check in dict.fromkeys(cell.check for cell in result.cells):
            cells = [cell for cell in result.cells if cell.check == check]
            by_check.setdefault(check, []).append(cells)
    rows = []
    for check, attempts in by_check.items():
        full = sum(all(cell.score == cell.points for cell in cells) for cells in attempts)
        first = [next((cell.message for cell in cells if cell.message), "") for cells in attempts]
        common = Counter(message for message in first if message).most_common(COMMON_MESSAGES)
        text = "; ".join(f"{count}× {message}" for message, count in common)
        rows.append([check, f"{full} of {len(attempts)}", text])
    return rows
