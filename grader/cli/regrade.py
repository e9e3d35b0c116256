"""`grader regrade`."""

import argparse
from typing import TYPE_CHECKING

from grader.box.tier import Tier
from grader.course import Course

if TYPE_CHECKING:
    from grader.gradebook.history import Entry
    from grader.grading.regrade import Change
    from grader.results import CellResult

SUMMARY = "grade again, keeping the old result"
EXAMPLE = "grader regrade lab03_lora --student ada --reason 'exercise 3 was unclear'"
CHANGED_REASON = "checks, release or versions changed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lab", help="its name, as in lab03_lora")
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("--student", action="append", help="this one; may be repeated")
    whom.add_argument(
        "--all-changed", action="store_true", help="all whose checks or versions have changed"
    )
    parser.add_argument("--reason", default="", help="kept in the history")
    parser.add_argument(
        "--tier", choices=list(Tier), default=Tier.BUBBLEWRAP, help="default: bubblewrap"
    )
    parser.add_argument("--jobs", type=int, default=None, help="submissions at a time")


def run(course: Course, arguments: argparse.Namespace) -> int:
    from grader.grading import regrade
    from grader.reports import class_report as report

    tier = Tier(arguments.tier)
    students = arguments.student or regrade.outdated(course, arguments.lab, tier)
    if not students:
        print("Nothing to do: all results are from today's checks, release and versions.")
        return 0
    reason = arguments.reason or (CHANGED_REASON if arguments.all_changed else "")
    options = {"reason": reason, "tier": tier, "jobs": arguments.jobs}
    for entry in regrade.regrade(course, arguments.lab, students, **options):
        for line in _lines(entry):
            print(line, flush=True)
    print(f"Class report: {report.write(course, arguments.lab).relative_to(course.root)}")
    return 0


def _lines(entry: "Entry") -> list[str]:
    from grader.grading.regrade import changes

    before, after = entry.before, entry.after
    assert after is not None, "a regrade yields closed entries"
    old = f"{before.score:g}" if before else "none"
    head = f"{after.student}: {old} -> {after.score:g} of {after.max_score:g} points, "
    if not after.cells:
        return [f"{head}{after.status}: {after.reason} (regrade {entry.number})"]
    found = changes(before, after)
    head += f"{len(found)} of {len(after.cells)} cells changed" if found else "nothing changed"
    return [f"{head} (regrade {entry.number})", *map(_change, found), *_book(entry)]


def _change(change: "Change") -> str:
    return f"  {change.question:<24} {_cell(change.before)} -> {_cell(change.after)}"


def _cell(cell: "CellResult | None") -> str:
    return f"{cell.status} {cell.score:g}" if cell else "absent"


def _book(entry: "Entry") -> list[str]:
    """Where people's points and the penalty make the gradebook say something else."""
    book, after = entry.book_after, entry.after
    assert after is not None, "a regrade yields closed entries"
    if book is None:
        return []
    lines = []
    if book.score != after.score or book.late_penalty:
        kept = f"{book.score:g} points with manual ones, {book.late_penalty:g} off for lateness"
        lines.append(f"  in the gradebook: {kept}")
    if book.open:
        lines.append(f"  to be graded by a person: {', '.join(book.open)}")
    return lines
