"""`grader feedback`."""

import argparse
import sys

from grader.cli.command_line import NOT_DONE
from grader.course import Course

SUMMARY = "write a page for each student, and the report of the class"
EXAMPLE = "grader feedback lab03_lora"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lab", help="its name, as in lab03_lora")


def run(course: Course, arguments: argparse.Namespace) -> int:
    from grader.reports import class_report as report
    from grader.reports import feedback

    pages, problems = feedback.write(course, arguments.lab)
    count = "1 page" if len(pages) == 1 else f"{len(pages)} pages"
    print(f"{count}: feedback/<student>/{arguments.lab}/{arguments.lab}.html")
    for problem in problems:
        print(f"grader: {problem}", file=sys.stderr)
    print(f"Class report: {report.write(course, arguments.lab).relative_to(course.root)}")
    return NOT_DONE if problems else 0
