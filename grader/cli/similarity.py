"""`grader similarity`."""

import argparse

from grader.course import Course

SUMMARY = "show which submissions share code"
LINE = "{:<20} {:<20} {:>7} {:>6}"
SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lab")
    parser.add_argument(
        "--least", type=int, default=60, metavar="TOKENS", help="list pairs from so many on"
    )
    parser.add_argument(
        "--common",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="what more than this share of the class has is left out; 1 leaves nothing out",
    )


def run(course: Course, arguments: argparse.Namespace) -> int:
    from grader.similarity import compare as similarity
    from grader.similarity import page as similarity_report

    settings = similarity.Settings(least=arguments.least, common=arguments.common)
    found = similarity.compare(course, arguments.lab, settings)
    if found.pairs:
        print(LINE.format("student", "student", "tokens", "share"))
    for pair in found.pairs[:SHOWN]:
        print(LINE.format(*pair.students, pair.tokens, f"{pair.share:.0%}"))
    print(
        f"{len(found.submissions)} submissions, {len(found.pairs)} pairs to look at, "
        f"{len(found.flags)} flagged lines."
    )
    for path in similarity_report.write(course, found):
        print(path.relative_to(course.root))
    return 0
