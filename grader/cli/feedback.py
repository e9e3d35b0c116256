"""`grader feedback`."""

import argparse

from grader.course import Course

SUMMARY = "write the students' pages and the report of the class"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lab")


def run(course: Course, arguments: argparse.Namespace) -> int:
    from grader.reports import class_report as report
    from grader.reports import feedback

    pages = feedback.write(course, arguments.lab)
    print(f"{len(pages)} pages: feedback/<student>/{arguments.lab}/{arguments.lab}.html")
    print(f"Class report: {report.write(course, arguments.lab).relative_to(course.root)}")
    return 0
