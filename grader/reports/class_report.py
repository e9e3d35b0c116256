"""The class at a glance: who got what and why, and how each exercise did."""

import json
import os
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from grader.course import Course
from grader.html_page import page, paragraph, table, text
from grader.reports.item_analysis import Failure, Item, failures, items
from grader.results import Result, Status, read_results

MAX_FAILURES = 30
MAX_TO_SEE = 50
NAMES_SHOWN = 5
ROWS_SHOWN = 25
ROWS_A_BLOCK = 100
WHY_CHARACTERS = 200
STYLE = "body { max-width: 76rem; }\n"
FEW = 30
HEADER = ("Student", "Status", "Points", "Time", "Why")
TO_SEE = (Status.INVALID, Status.TAMPER, Status.BLOCKED)


def write(course: Course, lab: str) -> Path:
    """Write the class report of a lab; ValueError if nothing was graded."""
    results = read_results(course.reports(lab) / "results")
    if not results:
        raise ValueError(f"{lab} has no results yet: run `grader autograde {lab}` first")
    path = course.reports(lab) / "class.html"
    part = path.with_suffix(".part")
    part.write_text(render(lab, results, _not_collected(course, lab)), encoding="utf-8")
    os.replace(part, path)
    return path


def _not_collected(course: Course, lab: str) -> list[tuple[str, str]]:
    """Who or what `grader collect` refused and has not taken since, and why."""
    last = {}
    for path in sorted((course.reports(lab) / "collected").glob("*.json")):
        for submission in json.loads(path.read_text(encoding="utf-8"))["submissions"]:
            last[submission["student"] or submission["source"]] = submission
    return [
        (name, "; ".join(refusal["why"] for refusal in submission["refused"]))
        for name, submission in sorted(last.items())
        if submission["state"] == "refused"
    ]


def render(
    lab: str, results: Sequence[Result], not_collected: Sequence[tuple[str, str]] = ()
) -> str:
    """The report's page. Points are those of the checks; what people gave is in the exports.

    Args:
        lab: The lab's name.
        results: Everybody's.
        not_collected: Submissions that were refused before grading, and why.
    """
    scored = [result for result in results if result.cells]
    questions = items(scored)
    parts = [
        f"<h1>{text(lab)}: class report</h1>",
        *_summary(results, scored),
        *_figures(scored, questions),
        *_exercises(questions, len(scored)),
        *_failures(failures(scored)),
        *_statuses(results),
        *_to_see(results),
        *_refused(not_collected),
        *_everybody(results),
    ]
    return page(f"{lab}: class report", "\n".join(parts), style=STYLE)


def _summary(results: Sequence[Result], scored: Sequence[Result]) -> list[str]:
    count = "1 submission" if len(results) == 1 else f"{len(results)} submissions"
    head = f"{count}, {len(results) - len(scored)} of them invalid."
    if scored:
        points = [result.score for result in scored]
        head += (
            f" Mean {statistics.fmean(points):.1f}, median {statistics.median(points):.1f} of "
            f"{scored[0].max_score:g} points from the checks."
        )
    tiers = ", ".join(sorted({result.tier for result in results}))
    return [paragraph(head), paragraph(f"Held in: {tiers}.", "soft")]


def _figures(scored: Sequence[Result], questions: Sequence[Item]) -> list[str]:
    if not scored:
        return []
    from grader.reports import figures as draw

    figures = [
        draw.scores([result.score for result in scored], scored[0].max_score),
        draw.pass_rates(questions),
        draw.discrimination(questions),
        draw.seconds([result.seconds for result in scored]),
    ]
    return [f'<div class="figures">{"".join(figures)}</div>']


def _exercises(questions: Sequence[Item], submissions: int) -> list[str]:
    if not questions:
        return []
    header = (
        "Exercise", "Points", "Full points", "Notebook's inputs", "Hidden inputs",
        "Discrimination", "Median time", "Time-outs",
    )  # fmt: skip
    rows = [
        [
            item.check,
            f"{item.points:g}",
            f"{item.solved} of {item.checked}",
            _percent(item.public_rate),
            _percent(item.hidden_rate),
            "—" if item.discrimination is None else f"{item.discrimination:.2f}",
            f"{item.median_seconds:.2f} s",
            f"{item.timeouts}",
        ]
        for item in questions
    ]
    said = (
        "Discrimination is the correlation of solving an exercise with the points of all others: "
        "near 0 it says nothing about a submission, below 0 look at the exercise. — where it is "
        "not defined."
    )
    if submissions < FEW:
        said += f" With fewer than {FEW} submissions it is mostly chance."
    return ["<h2>Exercises</h2>", table(header, rows), paragraph(said, "soft")]


def _percent(share: float | None) -> str:
    return "—" if share is None else f"{share:.0%}"


def _failures(found: Sequence[Failure]) -> list[str]:
    if not found:
        return []
    rows = [
        [f"{len(f.students)}", f.check, f.status.value, _cut(f.kind), _cut(_detail(f)), _names(f)]
        for f in found[:MAX_FAILURES]
    ]
    header = ("Students", "Exercise", "Status", "What they have in common", "For example", "Who")
    left = _left_out(len(rows), len(found), "kinds of failure; scores.json has every message")
    return ["<h2>Common failures</h2>", table(header, rows), *left]


def _detail(failure: Failure) -> str:
    return failure.example if failure.example.rstrip(".") != failure.kind else ""


def _names(failure: Failure) -> str:
    more = len(failure.students) - NAMES_SHOWN
    return ", ".join(failure.students[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _left_out(shown: int, all_of_them: int, what: str) -> list[str]:
    if shown == all_of_them:
        return []
    return [paragraph(f"The first {shown} of {all_of_them} {what}.", "soft")]


def _statuses(results: Sequence[Result]) -> list[str]:
    counts = Counter(result.status for result in results)
    rows = [
        [status.value, f"{counts[status]}", f"{counts[status] / len(results):.0%}"]
        for status in Status
        if counts[status]
    ]
    return ["<h2>Statuses</h2>", table(("Status", "Submissions", "Share"), rows)]


def _to_see(results: Sequence[Result]) -> list[str]:
    """Submissions returned unscored or to be looked at, with what only an instructor reads."""
    chosen = [result for result in results if result.status in TO_SEE]
    rows = [
        [result.student, result.status.value, _cut(result.reason), _cut(_details(result))]
        for result in chosen[:MAX_TO_SEE]
    ]
    if not rows:
        return []
    header = ("Student", "Status", "Why", "Details")
    left = _left_out(len(rows), len(chosen), "submissions; the lists below have all")
    return ["<h2>Returned, or to be looked at</h2>", table(header, rows), *left]


def _refused(not_collected: Sequence[tuple[str, str]]) -> list[str]:
    if not not_collected:
        return []
    rows = [[name, _cut(why)] for name, why in not_collected[:MAX_TO_SEE]]
    left = _left_out(len(rows), len(not_collected), "submissions that were not collected")
    return ["<h2>Refused when collecting</h2>", table(("Submission", "Why"), rows), *left]


def _details(result: Result) -> str:
    said = [f"{cell.cell}: {cell.detail}" for cell in result.cells if cell.detail]
    return " ".join((*said, *result.notes))


def _everybody(results: Sequence[Result]) -> list[str]:
    """All submissions; a long list in blocks that open without a script."""
    rows = [
        [
            result.student,
            result.status.value,
            f"{result.score:g} / {result.max_score:g}",
            f"{result.seconds:.1f} s",
            _cut(" ".join((result.reason, _details(result))).strip()),
        ]
        for result in results
    ]
    heading = "<h2>All submissions</h2>"
    if len(rows) <= ROWS_SHOWN:
        return [heading, table(HEADER, rows)]
    blocks = [rows[at : at + ROWS_A_BLOCK] for at in range(0, len(rows), ROWS_A_BLOCK)]
    return [heading, *map(_block, blocks)]


def _block(rows: list[list[str]]) -> str:
    first, last = rows[0][0], rows[-1][0]
    summary = text(f"{first} to {last} ({len(rows)})")
    return f"<details><summary>{summary}</summary>{table(HEADER, rows)}</details>"


def _cut(said: str) -> str:
    return said if len(said) <= WHY_CHARACTERS else said[: WHY_CHARACTERS - 1] + "…"
