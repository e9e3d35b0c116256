"""`grader progress`."""

import argparse
import json
from typing import TYPE_CHECKING

from grader.course import Course, safe_name

if TYPE_CHECKING:
    from grader.learner.progress import LabProgress

SUMMARY = "show which exercises pass and the minutes left"
EXAMPLE = "grader progress"
LINE = "{:<20} {:>9} {:>9} {:>13}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("labs", nargs="*", metavar="lab", help="default: all in labs/")
    parser.add_argument("--json", action="store_true", help="everything, for programs")


def run(course: Course, arguments: argparse.Namespace) -> int:
    from grader.learner.progress import progress
    from grader.learner.selfcheck import labs_in

    labs = [safe_name(lab, "lab") for lab in arguments.labs] or labs_in(course)
    if not labs:
        raise ValueError(f"there are no labs in {course.root / 'labs'}")
    found: list[LabProgress] = []
    for row in progress(course, labs):
        if not arguments.json and not found:
            print(LINE.format("lab", "exercises", "points", "minutes left"))
        found.append(row)
        if not arguments.json and not row.problem:
            print(_line(row.lab, [row]), flush=True)
    if arguments.json:
        print(json.dumps([row.as_json() for row in found], indent=1))
    elif len(found) > 1:
        print(_line("all", found))
    if problems := [row.problem for row in found if row.problem]:
        raise ValueError("\n".join(problems))
    return 0


def _line(name: str, rows: list["LabProgress"]) -> str:
    passing, exercises = sum(row.passing for row in rows), sum(len(row.exercises) for row in rows)
    points, possible = sum(row.points for row in rows), sum(row.max_points for row in rows)
    left = sum(row.minutes_left for row in rows)
    return LINE.format(name, f"{passing}/{exercises}", f"{points}/{possible}", left)
