"""The page and the JSON file of `grader similarity`: who shares what, side by side."""

import json
from dataclasses import asdict
from pathlib import Path

from grader.course import Course
from grader.html_page import page, paragraph, table, text
from grader.results import replacing
from grader.similarity.compare import GROUP_SHARE, SIGNAL, Similarity
from grader.similarity.own_code import Submission
from grader.similarity.pairs import MAX_PLACED, Match, Pair, Span
from grader.similarity.winnowing import GUARANTEE, NOISE

MAX_LISTED = MAX_PLACED
MAX_SIDE_BY_SIDE = 50
MAX_LIKE_REFERENCE = 20
STYLE = """
body { max-width: 100rem; }
.sides { table-layout: fixed; } .sides pre { margin: .2rem 0; } .run { font-weight: 700; }
.match { background: var(--open-bg); color: var(--open); text-decoration: underline dotted; }
@media (max-width: 36rem) { .sides tr, .sides td { display: block; width: 100%; } }
"""


def write(course: Course, found: Similarity) -> tuple[Path, Path]:
    """Write `reports/<lab>/similarity.html` and `.json`; NoRoomError if the disk is full."""
    folder = course.reports(found.lab)
    html, beside = folder / "similarity.html", folder / "similarity.json"
    listed = json.dumps(as_json(found), indent=1, ensure_ascii=False) + "\n"
    for path, content in ((html, render(found)), (beside, listed)):
        with replacing(path) as part:
            part.write_text(content, encoding="utf-8")
    return html, beside


def as_json(found: Similarity) -> dict[str, object]:
    """What the JSON file holds: names, and of the closest pairs places, no code."""
    return {
        "lab": found.lab,
        "signal": SIGNAL,
        "settings": asdict(found.settings) | {"noise": NOISE, "guarantee": GUARANTEE},
        "common_limit": found.common_limit,
        "submissions": [
            {
                "student": submission.student,
                "own_tokens": submission.own_tokens,
                "reference_share": round(submission.reference_share, 3),
            }
            for submission in found.submissions
        ],
        "pairs": [asdict(pair) | {"share": round(pair.share, 3)} for pair in found.pairs],
        "groups": found.groups,
        "flags": [asdict(flag) for flag in found.flags],
        "notes": found.notes,
    }


def render(found: Similarity) -> str:
    """The page: a signal in words, tables, and the code of the closest pairs side by side."""
    submissions = {submission.student: submission for submission in found.submissions}
    shown = found.pairs[:MAX_SIDE_BY_SIDE]
    body = [
        f"<h1>{text(found.lab)}: similar code</h1>",
        paragraph(SIGNAL),
        paragraph(_method(found)),
        *(paragraph(note) for note in found.notes),
        *_pairs(found),
        *_groups(found),
        *_flags(found),
        *_like_reference(found),
        *(["<h2>Side by side</h2>"] if shown else []),
        *(_side_by_side(pair, submissions) for pair in shown),
    ]
    return page(f"{found.lab}: similar code", "\n".join(body), style=STYLE)


def _method(found: Similarity) -> str:
    return (
        f"{len(found.submissions)} submissions were compared. Names, numbers, strings, comments "
        f"and layout do not count. Left out is what was released, the reference solution, and "
        f"what more than {found.common_limit} submissions have in common. Runs of at least "
        f"{GUARANTEE} tokens count; a pair is listed from {found.settings.least} tokens. The "
        "share is of the shorter submission's own tokens."
    )


def _pairs(found: Similarity) -> list[str]:
    heading = "<h2>Pairs</h2>"
    if not found.pairs:
        return [heading, paragraph("No pair shares enough to be listed.")]
    rows = [
        [*pair.students, f"{pair.tokens}", f"{pair.share:.0%}", _cells(pair)]
        for pair in found.pairs[:MAX_LISTED]
    ]
    count = _first_of(len(rows), len(found.pairs), "pairs")
    return [heading, *count, table(["Student", "Student", "Tokens", "Share", "In"], rows)]


def _first_of(shown: int, all_of_them: int, what: str) -> list[str]:
    if shown == all_of_them:
        return []
    return [paragraph(f"The first {shown} of {all_of_them} {what}; the JSON file has all.")]


def _cells(pair: Pair) -> str:
    return ", ".join(dict.fromkeys(match.first.cell for match in pair.matches))


def _groups(found: Similarity) -> list[str]:
    if not found.groups:
        return []
    rows = [[f"{len(group)}", ", ".join(group)] for group in found.groups]
    words = f"Three or more whom pairs with a share of at least {GROUP_SHARE:.0%} connect."
    return ["<h2>Groups</h2>", paragraph(words), table(["Size", "Students"], rows)]


def _flags(found: Similarity) -> list[str]:
    heading = "<h2>To look at</h2>"
    words = paragraph("Lines that honest answers seldom need. They cost nobody a point.")
    if not found.flags:
        return [heading, paragraph("No answer has a line that honest answers seldom need.")]
    rows = [
        [flag.student, flag.flag, f"{flag.cell}, line {flag.line}", flag.text]
        for flag in found.flags[:MAX_LISTED]
    ]
    count = _first_of(len(rows), len(found.flags), "places")
    return [heading, words, *count, table(["Student", "What", "Where", "Line"], rows)]


def _like_reference(found: Similarity) -> list[str]:
    closest = sorted(found.submissions, key=lambda each: (-each.reference_share, each.student))
    rows = [
        [each.student, f"{each.reference_share:.0%}"]
        for each in closest[:MAX_LIKE_REFERENCE]
        if each.reference_share > 0
    ]
    words = (
        f"The share of a student's own tokens in runs of {NOISE} that the reference solution has "
        "too; such runs are left out above. Short exercises have few right answers."
    )
    heading = "<h2>Closest to the reference solution</h2>"
    return [heading, paragraph(words), table(["Student", "Share"], rows)] if rows else []


def _side_by_side(pair: Pair, submissions: dict[str, Submission]) -> str:
    """The cells with matches, one student's beside the other's, folded away under their names."""
    first, second = (submissions[student] for student in pair.students)
    firsts = _numbered([match.first for match in pair.matches])
    seconds = _numbered([match.second for match in pair.matches])
    rows = []
    for cell in dict.fromkeys((*first.cells, *second.cells)):
        if cell in firsts or cell in seconds:
            left = _side(first, cell, firsts.get(cell, []))
            right = _side(second, cell, seconds.get(cell, []))
            rows.append(f"<tr><td>{left}</td><td>{right}</td></tr>")
    names = f"{text(first.student)} and {text(second.student)}"
    summary = f"<summary>{names}: {pair.tokens} tokens, {pair.share:.0%}</summary>"
    sides = f'<table class="sides"><tbody>{"".join(rows)}</tbody></table>'
    return f"<details>{summary}{paragraph(_where(pair.matches))}{sides}</details>"


def _side(submission: Submission, cell: str, spans: list[tuple[int, Span]]) -> str:
    code = _marked(submission.cells.get(cell, ""), spans)
    return f"{text(submission.student)}: {text(cell)}{code}"


def _where(matches: tuple[Match, ...]) -> str:
    return "; ".join(
        f"{number}: {_lines(match.first)} and {_lines(match.second)}, {match.tokens} tokens"
        for number, match in enumerate(matches, 1)
    )


def _lines(span: Span) -> str:
    return f"{span.cell} {span.first_line}–{span.last_line}"


def _numbered(spans: list[Span]) -> dict[str, list[tuple[int, Span]]]:
    """The spans of each cell in the order of the text, with the number of their match."""
    by_cell: dict[str, list[tuple[int, Span]]] = {}
    for number, span in enumerate(spans, 1):
        by_cell.setdefault(span.cell, []).append((number, span))
    return {cell: sorted(found, key=lambda item: item[1].start) for cell, found in by_cell.items()}


def _marked(code: str, spans: list[tuple[int, Span]]) -> str:
    """Escaped code with the matching stretches highlighted and numbered."""
    parts, reached = [], 0
    for number, span in spans:
        inside = text(code[span.start : span.end])
        parts.append(text(code[reached : span.start]))
        parts.append(f'<span class="run">[{number}]</span><span class="match">{inside}</span>')
        reached = span.end
    return f"<pre>{''.join(parts)}{text(code[reached:])}</pre>"
