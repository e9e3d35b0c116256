"""`grader sample-class`."""

import argparse

from grader.course import Course

SUMMARY = "write made-up submissions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lab")


def run(course: Course, arguments: argparse.Namespace) -> int:
    from grader import sample_class

    for path in sample_class.write(course, arguments.lab):
        print(path.relative_to(course.root))
    return 0
