"""The class at a glance: who got what and why, and how each exercise did."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from grader.course import Course
from grader.gradebook.final_scores import Book, Final, read_book
from grader.html_page import page, paragraph, table, text
from grader.reports.item_analysis import Failure, Item, failures, items
from grader.reports.spreadsheet import as_points
from grader.reports.stored_results import read_refusals, read_stored
from grader.results import Result, Status, replacing

MAX_FAILURES = 30
MAX_TO_SEE = 50
NAMES_SHOWN = 5
ROWS_SHOWN = 25
ROWS_A_BLOCK = 100
WHY_CHARACTERS = 200
STYLE = "body { max-width: 76rem; }\n"
FEW = 30
HEADER = ("Student", "Status", "Checks", "Final", "State", "Time", "Why")
FINAL = (
    "Final: what counts, with the points people gave and less the late penalty; open: a person "
    "still has to look at it."
)
TO_SEE = (Status.INVALID, Status.TAMPER, Status.BLOCKED)


def write(course: Course, lab: str) -> Path:
    """Write the class report of a lab.

    Raises:
        ValueError: Nothing was graded.
        NoRoomError: The disk is full.
    """
    stored, book = read_stored(course, lab), read_book(course, lab)
    refused, path = read_refusals(course, lab), course.reports(lab) / "class.html"
    html = render(lab, stored.results, book, refused=refused, unreadable=stored.unreadable)
    with replacing(path) as part:
        part.write_text(html, encoding="utf-8")
    return path


def render(
    lab: str,
    results: Sequence[Result],
    book: Book | None = None,
    *,
    refused: Sequence[tuple[str, str]] = (),
    unreadable: Mapping[str, str] | None = None,
) -> str:
    """The report's page. Its figures and exercises are about the checks' points.

    Args:
        lab: The lab's name.
        results: Everybody's.
        book: What the gradebook and the policy say; without it, the checks' points are final.
        refused: Submissions that were refused before grading, and why.
        unreadable: Results that cannot be read, and why.
    """
    scored = [result for result in results if result.cells]
    questions, book = items(scored), book or Book()
    parts = [
        f"<h1>{text(lab)}: class report</h1>",
        *_summary(results, scored),
        *_listed("Results that cannot be read", "Result", [*(unreadable or {}).items()]),
        *_figures(scored, questions),
        *_exercises(questions, len(scored)),
        *_failures(failures(scored)),
        *_statuses(results),
        *_to_see(results),
        *_listed("Refused when collecting", "Submission", refused),
        *_everybody(results, book),
    ]
    return page(f"{lab}: class report", "\n".join(parts), style=STYLE)


def _summary(results: Sequence[Result], scored: Sequence[Result]) -> list[str]:
    count = "1 submission" if len(results) == 1 else f"{len(results)} submissions"
    head = f"{count}, {len(results) - len(scored)} of them invalid."
    if scored:
        points = [result.score for result in scored]
        head += (
            f" Mean {statistics.fmean(points):.1f}, median {statistics.median(points):.1f} of "
            f"{_most(scored):g} points from the checks."
        )
    tiers = ", ".join(sorted({result.tier for result in results}))
    return [paragraph(head), *([paragraph(f"Held in: {tiers}.", "soft")] if tiers else [])]


def _most(scored: Sequence[Result]) -> float:
    return max(result.max_score for result in scored)


def _figures(scored: Sequence[Result], questions: Sequence[Item]) -> list[str]:
    if not scored:
        return []
    from grader.reports import figures as draw

    figures = [
        draw.scores([result.score for result in scored], _most(scored)),
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
        "Discrimination is the point-biserial correlation of solving an exercise with the points "
        "of all other exercises: near 0 it says nothing about a submission, below 0 look at the "
        "exercise. — where it is not defined."
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
    names, more = failure.students[:NAMES_SHOWN], len(failure.students) - NAMES_SHOWN
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


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


def _listed(heading: str, what: str, entries: Sequence[tuple[str, str]]) -> list[str]:
    """Names with the reason why there is nothing else of them."""
    if not entries:
        return []
    rows = [[name, _cut(why)] for name, why in entries[:MAX_TO_SEE]]
    left = _left_out(len(rows), len(entries), "of them")
    return [f"<h2>{heading}</h2>", table((what, "Why"), rows), *left]


def _details(result: Result) -> str:
    said = [f"{cell.cell}: {cell.detail}" for cell in result.cells if cell.detail]
    return " ".join((*said, *result.notes))


def _everybody(results: Sequence[Result], book: Book) -> list[str]:
    """All submissions; a long list in blocks that open without a script."""
    rows = [
        [
            result.student,
            result.status.value,
            f"{as_points(result.score)} / {as_points(result.max_score)}",
            *_final(book.final(result)),
            f"{result.seconds:.1f} s",
            _cut(" ".join((result.reason, _details(result))).strip()),
        ]
        for result in results
    ]
    parts = ["<h2>All submissions</h2>", paragraph(FINAL, "soft")]
    if len(rows) <= ROWS_SHOWN:
        return [*parts, table(HEADER, rows)]
    blocks = [rows[at : at + ROWS_A_BLOCK] for at in range(0, len(rows), ROWS_A_BLOCK)]
    return [*parts, *map(_block, blocks)]


def _final(final: Final) -> tuple[str, str]:
    """The score that counts, and whether that is its last word."""
    said = "excused" if final.excused else "open" if final.waiting else ""
    if final.score is None:
        return "—", said
    return f"{as_points(final.score)} / {as_points(final.max_score)}", said


def _block(rows: list[list[str]]) -> str:
    first, last = rows[0][0], rows[-1][0]
    summary = text(f"{first} to {last} ({len(rows)})")
    return f"<details><summary>{summary}</summary>{table(HEADER, rows)}</details>"


def _cut(said: str) -> str:
    return said if len(said) <= WHY_CHARACTERS else said[: WHY_CHARACTERS - 1] + "…"
