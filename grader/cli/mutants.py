"""`grader mutants`."""

import argparse
import os
import sys
from itertools import groupby
from typing import TYPE_CHECKING

from grader.box.tier import Tier
from grader.course import Course

if TYPE_CHECKING:
    from grader.killmatrix import Graded, Matrix

SUMMARY = "grade known-wrong answers, which every check must find"
EXAMPLE = "grader mutants lab03_lora"
LINE = "  {:<9} {:<8} {:<46} {}"
RED = 31
MESSAGE_CHARACTERS = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lab", nargs="?", help="default: all labs")
    parser.add_argument(
        "--tier", choices=list(Tier), default=Tier.BUBBLEWRAP, help="default: bubblewrap"
    )
    parser.add_argument("--jobs", type=int, default=None, help="submissions at a time")
    parser.add_argument(
        "--seed", type=int, default=0, help="another one gives the hidden cells other inputs"
    )


def run(course: Course, arguments: argparse.Namespace) -> int:
    from grader import killmatrix
    from labkit.runtime.progress import progress

    labs = [arguments.lab] if arguments.lab else course.labs()
    if not labs:
        raise ValueError(f"there are no labs in {course.root / 'solutions'}")
    options = {"tier": Tier(arguments.tier), "jobs": arguments.jobs, "seed": arguments.seed}
    failed = False
    for lab in labs:
        trials = killmatrix.trials(course, lab)
        graded = killmatrix.grade(course, lab, trials, **options)
        bar = progress(graded, total=len(trials), desc=lab, unit="notebook")
        matrix = killmatrix.Matrix.of(lab, bar)
        path = killmatrix.write(course, matrix)
        _print(matrix)
        print(path.relative_to(course.root), flush=True)
        failed = failed or bool(matrix.problems())
    return 1 if failed else 0


def _print(matrix: "Matrix") -> None:
    """The solution and the release in one line, a line for each mutant, then what is wrong."""
    scores = [f"{r.score:g}/{r.max_score:g}" for r in (matrix.solution, matrix.release)]
    print(f"{matrix.lab}: solution {scores[0]}, untouched release {scores[1]}")
    print(LINE.format("killed by", "verdict", "mutant", "message"))
    for question, mutants in groupby(matrix.mutants, key=lambda mutant: mutant.question):
        print(question)
        for mutant in mutants:
            print(_red(_line(mutant)) if mutant.problem else _line(mutant))
    for problem in matrix.problems():
        print(_red(problem))
    killed = [sum(m.dies(hidden=hidden) for m in matrix.mutants) for hidden in (True, False)]
    print(
        f"{killed[0]} of {len(matrix.mutants)} mutants are killed by the hidden cells, "
        f"{killed[1]} by the public ones."
    )


def _line(mutant: "Graded") -> str:
    message = mutant.message.partition(" Hint:")[0]
    if len(message) > MESSAGE_CHARACTERS:
        message = f"{message[: MESSAGE_CHARACTERS - 1]}…"
    if mutant.others:
        message += f" (it also costs {', '.join(mutant.others)})"
    verdict = mutant.cell(hidden=True).status
    return LINE.format(mutant.killed_by, verdict, mutant.mutant, message).rstrip()


def _red(text: str) -> str:
    """Coloured where a person looks at it."""
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        return f"\x1b[{RED}m{text}\x1b[0m"
    return text
