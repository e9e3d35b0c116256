"""`grader worker`."""

import argparse
import os

from grader.course import Course

SUMMARY = "grade for other machines: take submissions from a Redis broker"
EXAMPLE = "grader worker --broker redis://grading.example.org:6379/0 --jobs 4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--broker", required=True, help="for example redis://host:6379/0")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="submissions at a time")


def run(course: Course, arguments: argparse.Namespace) -> int:
    from grader.grading import distributed

    distributed.work(course, arguments.broker, arguments.jobs)
    return 0
