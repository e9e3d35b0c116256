"""`grader run`."""

import argparse
import sys
from typing import TYPE_CHECKING

from grader.course import Course

if TYPE_CHECKING:
    from grader.batch import NotebookRun

SUMMARY = "execute lectures and solved labs unattended"
EXAMPLE = "grader run --scale smoke --only chapters"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scale", choices=("smoke", "cpu", "gpu"), default="smoke", help="default: smoke"
    )
    parser.add_argument("--jobs", type=int, default=1, help="notebooks at a time")
    parser.add_argument(
        "--only", action="append", default=[], help="part of a path; may be repeated"
    )
    parser.add_argument("--store", action="store_true", help="write lectures' outputs back")
    parser.add_argument("--track", action="store_true", help="record the batch in MLflow")


def run(course: Course, arguments: argparse.Namespace) -> int:
    from grader import batch

    notebooks = batch.find_notebooks(course.root, arguments.only)
    output = course.root / "reports" / "notebooks"
    runs: list[batch.NotebookRun] = []
    options = {"scale": arguments.scale, "jobs": arguments.jobs, "store": arguments.store}
    for done in batch.run_all(course.root, notebooks, output=output, **options):
        runs.append(done)
        print(_line(done, len(runs), len(notebooks)), file=sys.stderr)
        if not done.ok:
            print(done.message, file=sys.stderr)
    summary = output / "summary.json"
    batch.write_summary(summary, runs, arguments.scale)
    if arguments.track:
        batch.track(course.root, runs, arguments.scale, summary)
    print(summary.relative_to(course.root))
    return 0 if all(done.ok for done in runs) else 1


def _line(done: "NotebookRun", number: int, count: int) -> str:
    state, size = "ok" if done.ok else "FAILED", f"{done.peak_bytes / 2**30:.1f} GiB"
    return f"{number}/{count} {state:<6} {done.seconds:6.1f} s {size} {done.notebook}"
