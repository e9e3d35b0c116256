"""`grader COMMAND …`: find the course, run the command, say what was wrong in one sentence.

Commands import what they need when they run, so that `--help` is instant.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from grader.box.tier import NoSandboxError
from grader.cli import autograde, check, export, feedback, release, run, sample_class
from grader.course import find_course, safe_name

COMMANDS = (release, check, sample_class, autograde, feedback, export, run)
EXAMPLES = """\
examples:
  grader release lab03_lora          make labs/lab03_lora from the solved notebook
  grader check lab03_lora            check your own notebook
  grader sample-class lab03_lora     six made-up submissions to try grading on
  grader autograde lab03_lora        grade everybody's submission in a sandbox
  grader feedback lab03_lora         a page for every student, a report of the class
  grader export lab03_lora           scores as CSV and JSON
  grader run --scale smoke --jobs 2  execute all lectures and solved labs
"""
BAD_INPUT = 2


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="grader", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="the course's folder; default: found upwards")
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2].replace("_", "-")
        subparser = commands.add_parser(name, help=command.SUMMARY, description=command.SUMMARY)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one sentence on stderr and exit status 2."""
    arguments = build_parser().parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        course = find_course(arguments.root)
        if hasattr(arguments, "lab"):
            safe_name(arguments.lab, "lab")
        return int(arguments.run(course, arguments))
    except (ValueError, OSError, ImportError, NoSandboxError) as error:
        print(f"grader: {error}", file=sys.stderr)
        return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
