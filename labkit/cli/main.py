"""`labkit COMMAND …`: parse, run, and say what was wrong in one sentence.

Commands import what they need when they run, so that `--help` is instant.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from labkit import __version__
from labkit.cli import evaluate, generate, pretrain, prune, quantize, serve, train

COMMANDS = (pretrain, train, generate, quantize, prune, evaluate, serve)
EXAMPLES = """\
examples:
  labkit generate smollm2-135m --chat "What is the capital of France?"
  labkit train smollm2-135m --out adapters/pydoc --steps 60
  labkit serve smollm2-135m --adapter pydoc=adapters/pydoc --port 8000
"""
BAD_INPUT, INTERRUPTED = 2, 130


class Parser(argparse.ArgumentParser):
    """An argument parser that answers a mistake with one sentence instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}; see {self.prog} --help\n")


def build_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(
        prog="labkit",
        description="Train, compress, evaluate and serve small language models.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"labkit {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        subparser = commands.add_parser(
            name,
            help=command.SUMMARY,
            description=command.SUMMARY,
            epilog=command.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run, prog=subparser.prog)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 2 on bad input, 130 when interrupted."""
    args = build_parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"{args.prog}: {_sentence(error)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"{args.prog}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
