"""One student's page: what was expected, what came, the hint, their own code.

Of hidden inputs it shows which property failed and the hint, no value and no source.
"""

from grader.gradebook.final_scores import BookCell, Entry, Final
from grader.html_page import box, page, paragraph, pill, table, text
from grader.notebooks import Notebook
from grader.reports.findings import Finding, finding, for_student, kind
from grader.reports.handed_in import exercises_code, manual_work
from grader.reports.item_analysis import by_check
from grader.reports.spreadsheet import as_points
from grader.results import CellResult, Result, Status, summarise

MOST_NOTES = 20
NO_CODE = "Your code cannot be shown here: the notebook is too large or broken. Yours has it still."
SHOWN, HIDDEN = "with the notebook's inputs", "with other inputs"
STYLE = """
.score { font-size: 1.5rem; font-weight: 700; margin: .6rem 0 .2rem; }
section { border: 1px solid var(--line); border-radius: .5rem; padding: 1rem; margin: 1rem 0; }
section header { display: flex; gap: .8rem; align-items: center; flex-wrap: wrap; }
section header .points { margin-left: auto; font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: 6.5rem 1fr; gap: .3rem 1rem; margin: .8rem 0; }
dt { color: var(--soft); } dd { margin: 0; } dd.hint { font-weight: 600; }
@media (max-width: 36rem) { dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; } }
"""


def render(
    result: Result,
    notebook: Notebook | None,
    final: Final | None = None,
    entry: Entry | None = None,
    *,
    lacks_code: bool = False,
) -> str:
    """One student's page.

    Args:
        result: What the checks found.
        notebook: What was graded, as `autograded/` has it.
        final: The score that counts; by default the result's own.
        entry: Points and comments of people.
        lacks_code: Whether to say that what was graded is too large or broken to be shown.
    """
    final = final or Final(score=result.score, max_score=result.max_score, auto_score=result.score)
    entry = entry or Entry()
    points = "Returned without a score"
    if final.score is not None:
        points = f"{as_points(final.score)} of {as_points(final.max_score)} points"
    parts = [
        _header(result, points, final),
        _reason(result),
        _overview(result, entry),
        box(NO_CODE, "open") if lacks_code else "",
        *_exercises(result, notebook, entry),
        *(manual_work(notebook, entry) if notebook is not None else []),
        _notes(result),
    ]
    return page(f"{result.lab}: {points}", "\n".join(part for part in parts if part), style=STYLE)


def _header(result: Result, points: str, final: Final) -> str:
    """Who, how many points and what they are made of."""
    lines = [f"<h1>{text(result.lab)}</h1>", f'<p class="score">{text(points)}</p>']
    if final.score is not None and final.max_score > 0:
        share = min(max(final.score, 0.0), final.max_score)
        value = f'value="{share:.6g}" max="{final.max_score:.6g}" aria-label="Points"'
        lines.append(f"<meter {value}></meter>")
    received = result.received[:16].replace("T", " ")
    lines.append(
        f"<p>{pill(result.status.value)} <strong>{text(result.student)}</strong> "
        f'<span class="soft">received {text(received)} UTC</span></p>'
    )
    return f"<header>{''.join([*lines, *_made_of(final)])}</header>"


def _made_of(final: Final) -> list[str]:
    lines = []
    if final.late_penalty:
        lost = as_points(final.late_penalty)
        lines.append(paragraph(f"Handed in late: {lost} points were taken off."))
    if final.waiting:
        count = len(final.waiting)
        what = "one answer is" if count == 1 else f"{count} answers are"
        lines.append(box(f"Not final yet: {what} still to be graded.", "open"))
    if final.excused:
        lines.append(paragraph("You are excused: this lab does not count."))
    return lines


def _reason(result: Result) -> str:
    """A reason of its own; one that sums up the cells may hold hidden values, and they tell it."""
    sums_up = any(result.reason.startswith(f"{cell.check}: ") for cell in result.cells)
    return "" if sums_up or not result.reason else box(result.reason, "bad")


def _points(cells: list[CellResult], entry: Entry) -> tuple[str, bool]:
    """An exercise's points as text, and whether a person gave any of them."""
    graded = [
        entry.cells.get(
            cell.cell,
            BookCell(points=cell.score, max_score=cell.points, by_hand=False, waiting=False),
        )
        for cell in cells
    ]
    points, most = sum(cell.points for cell in graded), sum(cell.max_score for cell in graded)
    return f"{as_points(points)} / {as_points(most)}", any(cell.by_hand for cell in graded)


def _overview(result: Result, entry: Entry) -> str:
    if not result.cells:
        return ""
    rows = []
    for check, cells in by_check(result.cells).items():
        statuses = [
            next((cell.status.value for cell in cells if cell.hidden is hidden), "—")
            for hidden in (False, True)
        ]
        rows.append([check, *statuses, _points(cells, entry)[0]])
    header = ["Exercise", "Notebook's inputs", "Other inputs", "Points"]
    return "<h2>Exercises</h2>" + table(header, rows)


def _exercises(result: Result, notebook: Notebook | None, entry: Entry) -> list[str]:
    code = exercises_code(notebook) if notebook is not None else {}
    parts = []
    for check, cells in by_check(result.cells).items():
        points, by_hand = _points(cells, entry)
        status, _ = summarise(cells)
        body = [
            f"<header><h3>{text(check)}</h3>{pill(status.value)}"
            f'<span class="points">{text(points)} points</span></header>'
        ]
        if by_hand:
            body.append(paragraph("These points were given by a person.", "soft"))
        body += _findings(cells)
        if comment := entry.comments.get(check):
            body.append(box(comment, heading="Comment"))
        body.append(code.pop(check, ""))
        parts.append(f"<section>{''.join(body)}</section>")
    parts += [
        f"<section><h3>{text(name)}</h3>{written}</section>" for name, written in code.items()
    ]
    return parts


def _findings(cells: list[CellResult]) -> list[str]:
    """What each failed cell says, once where both say the same."""
    failed = [cell for cell in cells if cell.status is not Status.OK]
    kinds = {(cell.status, kind(cell.message)) for cell in failed}
    if len(failed) > 1 and len(kinds) == 1:
        shown = next((cell for cell in failed if not cell.hidden), failed[0])
        return [_finding(f"{SHOWN}, and {HIDDEN}", shown)]
    return [_finding(HIDDEN if cell.hidden else SHOWN, cell) for cell in failed]


def _finding(where: str, cell: CellResult) -> str:
    found: Finding = finding(for_student(cell))
    rows = {
        "Seen": where,
        "Looked at": found.checked,
        "Expected": found.expected,
        "What came": found.came,
        "Hint": found.hint,
    }
    lines = [
        f'<dt>{name}</dt><dd class="{name.split()[0].lower()}">{text(said)}</dd>'
        for name, said in rows.items()
        if said
    ]
    return f"<dl>{''.join(lines)}</dl>"


def _notes(result: Result) -> str:
    if not result.notes:
        return ""
    left = len(result.notes) - MOST_NOTES
    notes = [*result.notes[:MOST_NOTES], *([f"… and {left} more."] if left > 0 else [])]
    return f"<h2>Notes</h2><ul>{''.join(f'<li>{text(note)}</li>' for note in notes)}</ul>"


def unshown(lab: str) -> str:
    """The page of a student whose result cannot be shown."""
    said = (
        "What was found in your submission cannot be shown here; nothing you handed in is lost. "
        "Your instructor was told so and can make this page again."
    )
    return page(f"{lab}: no result", f"<h1>{text(lab)}</h1>{box(said, 'open')}", style=STYLE)
