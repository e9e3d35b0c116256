"""`grader export`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from grader.cli.command_line import NOT_DONE
from grader.course import Course

SUMMARY = "write final scores: CSV, for Canvas and Moodle, and JSON with everything (keep private)"
EXAMPLE = "grader export lab03_lora --format canvas --roster roster.csv"
FORMATS = ("csv", "canvas", "moodle", "json")
NAMES_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lab", help="its name, as in lab03_lora")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        action="append",
        help="may be repeated; default: all. json has the seeds of hidden inputs: keep it private",
    )
    parser.add_argument(
        "--roster",
        type=Path,
        help="CSV with id and any of name, email, canvas_id, sis_id, username, idnumber, section; "
        "other columns are passed over",
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
    _warn("entered, not in the roster", scores.unlisted())
    _warn("in the roster, not in canvas.csv and moodle.csv: no score", scores.left_out())
    _warn("with answers that are still to be graded", scores.waiting())
    for student, why in scores.unreadable.items():
        print(f"grader: {student} is in no file: {why}", file=sys.stderr)
    return NOT_DONE if scores.unreadable else 0


def _warn(what: str, students: Sequence[str]) -> None:
    if students:
        more = f" and {len(students) - NAMES_SHOWN} more" if len(students) > NAMES_SHOWN else ""
        names = ", ".join(students[:NAMES_SHOWN])
        print(f"grader: {len(students)} {what}: {names}{more}", file=sys.stderr)
