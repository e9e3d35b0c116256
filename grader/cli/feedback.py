"""`grader feedback`."""

import argparse

from grader.course import Course

SUMMARY = "write the students' pages"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lab")


def run(course: Course, arguments: argparse.Namespace) -> int:
    from grader import feedback, report

    for path in (*feedback.write(course, arguments.lab), report.write(course, arguments.lab)):
        print(path.relative_to(course.root))
    return 0
