"""`grader export`."""

import argparse

from grader.course import Course

SUMMARY = "write scores as CSV and JSON"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lab")


def run(course: Course, arguments: argparse.Namespace) -> int:
    from grader import export

    for path in export.write(course, arguments.lab):
        print(path.relative_to(course.root))
    return 0
