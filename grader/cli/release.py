"""`grader release`."""

import argparse
import sys

from grader.course import Course

SUMMARY = "make the learners' notebooks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("labs", nargs="*")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; list what is stale or leaks, exit 1"
    )


def run(course: Course, arguments: argparse.Namespace) -> int:
    from grader.release import generate as release

    labs = arguments.labs or course.labs()
    if not arguments.check:
        for lab in labs:
            print(release.release(course, lab).relative_to(course.root))
        return 0
    found = [] if arguments.labs else release.labs_without_source(course)
    for lab in labs:
        found += release.differing_files(course, lab)
        if course.release(lab).is_file():
            found += [f"{lab}: {leak}" for leak in release.leaks(course, lab, course.release(lab))]
    for line in found:
        print(line)
    if found:
        print("Run `grader release` and commit labs/.", file=sys.stderr)
    return 1 if found else 0
