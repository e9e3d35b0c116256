"""`grader release`."""

import argparse

from grader.course import Course

SUMMARY = "make the learners' notebooks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("labs", nargs="*")


def run(course: Course, arguments: argparse.Namespace) -> int:
    from grader.release import release

    for lab in arguments.labs or course.labs():
        print(release(course, lab).relative_to(course.root))
    return 0
