"""`grader similarity`."""

import argparse
import sys

from grader.course import Course

SUMMARY = "show which submissions share code: a signal to look, never a score"
EXAMPLE = "grader similarity lab03_lora --least 80"
LINE = "{:<20} {:<20} {:>7} {:>6}"
SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lab", help="its name, as in lab03_lora")
    parser.add_argument(
        "--least",
        type=int,
        default=60,
        metavar="TOKENS",
        help="list pairs that share so many tokens or more; default: 60",
    )
    parser.add_argument(
        "--common",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="what more than this share of the class, and more than 10, have is left out; "
        "default: 0.1; 1 leaves nothing out",
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
        f"Submissions: {len(found.submissions)}; pairs to look at: {len(found.pairs)}; "
        f"flagged lines: {len(found.flags)}."
    )
    for note in found.notes:
        print(f"grader: {note}", file=sys.stderr)
    for path in similarity_report.write(course, found):
        print(path.relative_to(course.root))
    return 0
