"""The command `grader` as learners have it in their own repository."""

import os
import sys
from collections.abc import Sequence

from grader.cli import check, progress
from grader.cli.command_line import build_parser, execute

COMMANDS = (check, progress)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the learner's commands."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return execute(build_parser(COMMANDS).parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
