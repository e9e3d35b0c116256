"""`grader autograde`."""

import argparse
import sys

from grader.box.tier import Tier
from grader.course import Course
from grader.results import Result

SUMMARY = "grade submissions in a sandbox"
EXAMPLE = "grader autograde lab03_lora --student ada --student ben"
LINE = "{:<20} {:<12} {:>9} {:>8}  {}"
WHY_CHARACTERS = 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lab", help="its name, as in lab03_lora")
    parser.add_argument("--student", action="append", help="only this one; may be repeated")
    parser.add_argument(
        "--tier", choices=list(Tier), default=Tier.BUBBLEWRAP, help="default: bubblewrap"
    )
    parser.add_argument("--jobs", type=int, default=None, help="submissions at a time")
    parser.add_argument("--fresh", action="store_true", help="grade again what is in the cache")
    parser.add_argument("--broker", help="let `grader worker`s at this Redis address grade")


def run(course: Course, arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from grader.grading.autograde import UngradedError, autograde
    from grader.reports import class_report as report
    from labkit.runtime.progress import progress

    tier = Tier(arguments.tier)
    if tier is Tier.RLIMITS:
        print(
            "Tier rlimits: submissions run without isolation; the results say so.", file=sys.stderr
        )
    elsewhere = None
    if arguments.broker:
        from grader.grading.distributed import Remote

        elsewhere = Remote(course, arguments.lab, tier, arguments.broker)
    results = autograde(
        course,
        arguments.lab,
        students=arguments.student,
        tier=tier,
        jobs=arguments.jobs,
        fresh=arguments.fresh,
        elsewhere=elsewhere,
    )
    total = len(arguments.student or course.students(arguments.lab))
    bar = progress(results, total=total, desc=arguments.lab, unit="student")
    failed = None
    try:
        for index, result in enumerate(bar):
            if index == 0:
                tqdm.write(LINE.format("student", "status", "points", "time", "why"))
            tqdm.write(_line(result))
    except UngradedError as error:
        failed = error
    print(f"Class report: {report.write(course, arguments.lab).relative_to(course.root)}")
    if failed is not None:
        raise failed
    return 0


def _line(result: Result) -> str:
    points = f"{result.score:g}/{result.max_score:g}"
    why = result.reason or " ".join(result.notes)
    why = why if len(why) <= WHY_CHARACTERS else why[: WHY_CHARACTERS - 1] + "…"
    return LINE.format(result.student, result.status, points, f"{result.seconds:.1f} s", why)
