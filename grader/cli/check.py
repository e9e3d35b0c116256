"""`grader check`."""

import argparse
import sys

from grader.box.tier import Tier
from grader.course import Course

SUMMARY = "check your own notebook"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lab")


def run(course: Course, arguments: argparse.Namespace) -> int:
    from grader import selfcheck

    tier = selfcheck.available_tier(arguments.lab)
    if tier is not Tier.BUBBLEWRAP:
        print("No bubblewrap here: your code runs without isolation.", file=sys.stderr)
    passed = 0
    outcomes = list(selfcheck.check(course, arguments.lab, tier))
    for item, status, message in outcomes:
        passed += status == "OK"
        print(f"{status:<8} {item.name:<20} {message}")
    print(f"{passed} of {len(outcomes)} exercises pass.")
    return 0 if passed == len(outcomes) else 1
