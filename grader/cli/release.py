"""`grader release`."""

import argparse
import sys

from grader.course import Course, safe_name

SUMMARY = "make labs/ from solutions/, unless something would leak"
EXAMPLE = "grader release lab03_lora"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("labs", nargs="*", metavar="lab", help="default: all in solutions/")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; list what is stale or leaks, exit 1"
    )


def run(course: Course, arguments: argparse.Namespace) -> int:
    from grader.release import generate as release

    labs = [safe_name(lab, "lab") for lab in arguments.labs] or course.labs()
    if not labs:
        raise ValueError(f"there are no solved labs in {course.root / 'solutions'}")
    if not arguments.check:
        for lab in labs:
            print(release.release(course, lab).relative_to(course.root))
        return 0
    found = [] if arguments.labs else release.labs_without_source(course)
    found += release.stale_or_leaking(course, labs)
    for line in found:
        print(line)
    if found:
        print("Run `grader release` and commit labs/.", file=sys.stderr)
    return 1 if found else 0
