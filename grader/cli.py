"""The command `grader`: release, check, grade, give feedback, export, run notebooks."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from grader.box.tier import NoSandboxError, Tier
from grader.course import Course, find_course, safe_name
from grader.results import Result

EXAMPLES = """examples:
  grader release lab03_lora          make labs/lab03_lora from the solved notebook
  grader check lab03_lora            check your own notebook
  grader sample-class lab03_lora     six made-up submissions to try grading on
  grader autograde lab03_lora        grade everybody's submission in a sandbox
  grader feedback lab03_lora         a page for every student, a report of the class
  grader export lab03_lora           scores as CSV and JSON
  grader run --scale smoke --jobs 2  execute all lectures and solved labs
"""
LINE = "{:<20} {:<12} {:>9} {:>8}  {}"
WHY_CHARACTERS = 120


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def release(course: Course, arguments: argparse.Namespace) -> int:
    from grader.release import release as make

    for lab in arguments.labs or course.labs():
        print(make(course, lab).relative_to(course.root))
    return 0


def check(course: Course, arguments: argparse.Namespace) -> int:
    from grader.selfcheck import available_tier
    from grader.selfcheck import check as run

    tier = available_tier(arguments.lab)
    if tier is not Tier.BUBBLEWRAP:
        _say("No bubblewrap here: your code runs without isolation.")
    passed = 0
    outcomes = list(run(course, arguments.lab, tier))
    for item, status, message in outcomes:
        passed += status == "OK"
        print(f"{status:<8} {item.name:<20} {message}")
    print(f"{passed} of {len(outcomes)} exercises pass.")
    return 0 if passed == len(outcomes) else 1


def sample_class(course: Course, arguments: argparse.Namespace) -> int:
    from grader.sample_class import write

    for path in write(course, arguments.lab):
        print(path.relative_to(course.root))
    return 0


def autograde(course: Course, arguments: argparse.Namespace) -> int:
    from grader import report
    from grader.autograde import autograde as grade

    tier = Tier(arguments.tier)
    if tier is Tier.RLIMITS:
        _say("Tier rlimits: submissions run without isolation; the results say so.")
    students = arguments.student or None
    results = grade(course, arguments.lab, students=students, tier=tier, jobs=arguments.jobs)
    for index, result in enumerate(results):
        if index == 0:
            print(LINE.format("student", "status", "points", "time", "why"))
        print(_line(result), flush=True)
    print(f"Class report: {report.write(course, arguments.lab).relative_to(course.root)}")
    return 0


def _line(result: Result) -> str:
    points = f"{result.score:g}/{result.max_score:g}"
    why = result.reason or " ".join(result.notes)
    why = why if len(why) <= WHY_CHARACTERS else why[: WHY_CHARACTERS - 1] + "…"
    return LINE.format(result.student, result.status, points, f"{result.seconds:.1f} s", why)


def feedback(course: Course, arguments: argparse.Namespace) -> int:
    from grader import feedback as pages
    from grader import report

    for path in (*pages.write(course, arguments.lab), report.write(course, arguments.lab)):
        print(path.relative_to(course.root))
    return 0


def export(course: Course, arguments: argparse.Namespace) -> int:
    from grader.export import write

    for path in write(course, arguments.lab):
        print(path.relative_to(course.root))
    return 0


def run(course: Course, arguments: argparse.Namespace) -> int:
    from grader import batch

    notebooks = batch.find_notebooks(course.root, arguments.only)
    output = course.root / "reports" / "notebooks"
    runs: list[batch.NotebookRun] = []
    options = {"scale": arguments.scale, "jobs": arguments.jobs}
    for done in batch.run_all(
        course.root, notebooks, output=output, store=arguments.store, **options
    ):
        runs.append(done)
        size = f"{done.peak_bytes / 2**30:.1f} GiB"
        state = "ok" if done.ok else "FAILED"
        _say(
            f"{len(runs)}/{len(notebooks)} {state:<6} {done.seconds:6.1f} s {size} {done.notebook}"
        )
        if not done.ok:
            _say(done.message)
    summary = output / "summary.json"
    batch.write_summary(summary, runs, arguments.scale)
    if arguments.track:
        batch.track(course.root, runs, arguments.scale, summary)
    print(summary.relative_to(course.root))
    return 0 if all(done.ok for done in runs) else 1


def parser() -> argparse.ArgumentParser:
    """The command line's parser."""
    top = argparse.ArgumentParser(
        prog="grader", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--root", type=Path, help="the course's folder; default: found upwards")
    commands = top.add_subparsers(required=True, metavar="command")

    def command(name: str, action: Callable[..., int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(action=action)
        return sub

    command("release", release, "make the learners' notebooks").add_argument("labs", nargs="*")
    command("check", check, "check your own notebook").add_argument("lab")
    command("sample-class", sample_class, "write made-up submissions").add_argument("lab")
    grading = command("autograde", autograde, "grade submissions in a sandbox")
    grading.add_argument("lab")
    grading.add_argument("--student", action="append", help="only this one; may be repeated")
    grading.add_argument("--tier", choices=list(Tier), default=Tier.BUBBLEWRAP)
    grading.add_argument("--jobs", type=int, default=None, help="boxes at a time")
    command("feedback", feedback, "write the students' pages").add_argument("lab")
    command("export", export, "write scores as CSV and JSON").add_argument("lab")
    _add_run(command("run", run, "execute lectures and solved labs"))
    return top


def _add_run(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--scale", choices=("smoke", "cpu", "gpu"), default="smoke")
    sub.add_argument("--jobs", type=int, default=1, help="notebooks at a time")
    sub.add_argument("--only", action="append", default=[], help="part of a path; may be repeated")
    sub.add_argument("--store", action="store_true", help="write lectures' outputs back")
    sub.add_argument("--track", action="store_true", help="record the batch in MLflow")


def main(argv: list[str] | None = None) -> int:
    """Run one command; a user's mistake is one sentence on stderr and exit status 2."""
    arguments = parser().parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        course = find_course(arguments.root)
        if hasattr(arguments, "lab"):
            safe_name(arguments.lab, "lab")
        return int(arguments.action(course, arguments))
    except (ValueError, OSError, ImportError, NoSandboxError) as error:
        _say(f"grader: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
