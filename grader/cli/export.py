"""`grader export`."""

import argparse
import sys
from pathlib import Path

from grader.course import Course

SUMMARY = "write scores as CSV, for Canvas and Moodle, and as JSON"
FORMATS = ("csv", "canvas", "moodle", "json")
NAMES_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lab")
    parser.add_argument(
        "--format", choices=FORMATS, action="append", help="may be repeated; default: all of them"
    )
    parser.add_argument(
        "--roster",
        type=Path,
        help="CSV with id and any of name, email, canvas_id, sis_id, username, idnumber, section",
    )
    parser.add_argument(
        "--column",
        default="",
        help="the assignment as Canvas or Moodle has it, as in 'Lab 3 (4711)'; default: the lab",
    )


def run(course: Course, arguments: argparse.Namespace) -> int:
    from grader.reports import export

    scores = export.read_scores(
        course, arguments.lab, roster=arguments.roster, column=arguments.column
    )
    for path in export.write(course, scores, arguments.format or FORMATS):
        print(path.relative_to(course.root))
    _warn("have a score and are not in the roster", scores.unlisted())
    waiting = [r.student for r in scores.results if scores.book.final(r).waiting]
    _warn("have answers that are still to be graded", waiting)
    return 0


def _warn(what: str, students: list[str]) -> None:
    if students:
        more = f" and {len(students) - NAMES_SHOWN} more" if len(students) > NAMES_SHOWN else ""
        names = ", ".join(students[:NAMES_SHOWN])
        print(f"grader: {len(students)} {what}: {names}{more}", file=sys.stderr)
