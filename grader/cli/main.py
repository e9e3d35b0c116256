"""`grader COMMAND …`: find the course, run the command, say what was wrong in one sentence.

Commands import what they need when they run, so that `--help` is instant.
"""

import os
import sys
from collections.abc import Sequence

from grader.cli import (
    autograde,
    check,
    collect,
    export,
    feedback,
    mutants,
    progress,
    regrade,
    release,
    run,
    sample_class,
    similarity,
    student_repo,
    worker,
)
from grader.cli.command_line import build_parser, execute

COMMANDS = (
    release,
    mutants,
    student_repo,
    check,
    progress,
    sample_class,
    collect,
    autograde,
    worker,
    regrade,
    feedback,
    similarity,
    export,
    run,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one sentence on stderr and exit status 2."""
    arguments = build_parser(COMMANDS).parse_args(argv)
    if arguments.run is not run.run:  # boxes run side by side; notebooks may use every core
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    return execute(arguments)


if __name__ == "__main__":
    sys.exit(main())
