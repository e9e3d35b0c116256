"""`grader sample-class`."""

import argparse

from grader.course import Course

SUMMARY = "write six made-up submissions to try grading on"
EXAMPLE = "grader sample-class lab03_lora"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lab", help="its name, as in lab03_lora")


def run(course: Course, arguments: argparse.Namespace) -> int:
    from grader import sample_class

    for path in sample_class.write(course, arguments.lab):
        print(path.relative_to(course.root))
    return 0
