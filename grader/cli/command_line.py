"""A command line made of modules with SUMMARY, add_arguments(parser) and run(course, arguments)."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from grader.box.tier import NoSandboxError
from grader.course import find_course, safe_name

BAD_INPUT, INTERRUPTED = 2, 130


def build_parser(commands: Iterable[ModuleType], examples: str) -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="grader", epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="the course's folder; default: found upwards")
    subparsers = parser.add_subparsers(required=True, metavar="command")
    for command in commands:
        name = command.__name__.rpartition(".")[2].replace("_", "-")
        subparser = subparsers.add_parser(name, help=command.SUMMARY, description=command.SUMMARY)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def execute(arguments: argparse.Namespace) -> int:
    """Run one command; a user's mistake is one sentence on stderr and exit status 2."""
    try:
        course = find_course(arguments.root)
        if getattr(arguments, "lab", None) is not None:
            safe_name(arguments.lab, "lab")
        return int(arguments.run(course, arguments))
    except (ValueError, OSError, ImportError, NoSandboxError) as error:
        print(f"grader: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("grader: stopped", file=sys.stderr)
        return INTERRUPTED
