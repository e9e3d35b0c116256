"""`grader check`."""

import argparse
import os
import shutil
import sys
import textwrap
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from grader.box.tier import Tier
from grader.course import Course
from grader.results import Status

if TYPE_CHECKING:
    from grader.learner.selfcheck import Exercise

SUMMARY = "check your own notebook as its check cells do"
EXAMPLE = "grader check lab03_lora"
GREEN, RED, YELLOW = 32, 31, 33
INDENT = 9 * " "
UNLIMITED = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        metavar="lab",
        nargs="?",
        help="its name, its folder or its notebook; default: what is in this folder",
    )
    parser.add_argument("notebook", nargs="?", type=Path, help="default: the one in labs/")


def run(course: Course, arguments: argparse.Namespace) -> int:
    from grader.learner import progress, selfcheck

    lab, chosen = selfcheck.asked_for(arguments.target)
    path, notebook = selfcheck.own_notebook(course, lab, arguments.notebook or chosen)
    saved = datetime.fromtimestamp(path.stat().st_mtime)
    print(f"{lab}: {os.path.relpath(path)}, as saved on {saved:%Y-%m-%d at %H:%M:%S}", flush=True)
    exercises = []
    with selfcheck.strongest_boxes(lab) as boxes:
        if boxes.tier is not Tier.BUBBLEWRAP:
            print(_without_bubblewrap(boxes.tier), file=sys.stderr)
        for exercise in selfcheck.check(boxes, notebook):
            exercises.append(exercise)
            print(_lines(exercise), flush=True)
    if path.resolve() == course.release(lab).resolve():
        progress.remember(course, lab, notebook, exercises)
    print(_summary(exercises))
    return 0 if all(exercise.passes for exercise in exercises) else 1


def _without_bubblewrap(tier: Tier) -> str:
    how = "without isolation" if tier is Tier.RLIMITS else f"in a sandbox of another kind ({tier})"
    return f"bubblewrap is not installed or does not work here: your code runs {how}."


def _lines(exercise: "Exercise") -> str:
    points = f"{exercise.points if exercise.passes else 0}/{exercise.points}"
    line = f"{_word(exercise)} {exercise.name:<24} {points:>5}"
    if exercise.passes:
        return line
    if not exercise.is_written:
        return f"{line}  {exercise.message.partition(':')[0]}"
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else UNLIMITED
    message = textwrap.fill(
        exercise.message, width, initial_indent=INDENT, subsequent_indent=INDENT
    )
    return f"{line}\n{message}"


def _word(exercise: "Exercise") -> str:
    """One word in eight columns, coloured where a person looks at it."""
    if exercise.passes:
        word, colour = "OK", GREEN
    elif not exercise.is_written:
        word, colour = "to do", YELLOW
    else:
        word, colour = ("wrong" if exercise.status is Status.WRONG else "stopped"), RED
    text = f"{word:<8}"
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        return f"\x1b[{colour}m{text}\x1b[0m"
    return text


def _summary(exercises: list["Exercise"]) -> str:
    passing = [exercise for exercise in exercises if exercise.passes]
    points = sum(exercise.points for exercise in passing)
    possible = sum(exercise.points for exercise in exercises)
    text = f"{len(passing)} of {len(exercises)} exercises pass. {points} of {possible} points"
    if len(passing) == len(exercises):
        return f"{text}, if grading's other inputs pass too."
    return f"{text} so far. Save your notebook before you check again."
