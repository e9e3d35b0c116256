"""A command line of modules with SUMMARY, EXAMPLE, add_arguments(parser), run(course, arguments).

`run` returns the exit status; `STATUSES` says what each means for all commands.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from grader.box.tier import NoSandboxError
from grader.course import find_course, safe_name

NOT_DONE, INTERRUPTED = 2, 130
STATUSES = """\
exit status:
  0    done, and nothing is wrong
  1    done, and something is wrong: a check fails, labs/ is stale, a mutant survives,
       a notebook failed, an archive was damaged
  2    not done, or not all of it: stderr says in a sentence why
  130  stopped with Ctrl-C"""


def build_parser(commands: Sequence[ModuleType]) -> argparse.ArgumentParser:
    """The parser of all commands; each one's help ends in an example."""
    as_written = argparse.RawDescriptionHelpFormatter
    examples = "\n".join(["examples:", *(f"  {command.EXAMPLE}" for command in commands)])
    parser = argparse.ArgumentParser(
        prog="grader", epilog=f"{examples}\n\n{STATUSES}", formatter_class=as_written
    )
    parser.add_argument("--root", type=Path, help="the course's folder; default: found upwards")
    subparsers = parser.add_subparsers(required=True, metavar="command")
    for command in commands:
        subparser = subparsers.add_parser(
            command.__name__.rpartition(".")[2].replace("_", "-"),
            help=command.SUMMARY,
            description=command.SUMMARY,
            epilog=f"example:\n  {command.EXAMPLE}",
            formatter_class=as_written,
        )
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
        return NOT_DONE
    except KeyboardInterrupt:
        print("grader: stopped", file=sys.stderr)
        return INTERRUPTED
